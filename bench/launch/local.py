"""Local launcher: runs cells on this machine, one after the other or several at a time.

Each cell runs in a fresh process with a supervising thread. Events of all cells are reported in the main thread, which
also receives interrupts.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.config.cells import Cell
from bench.launch import affinity, fork_server
from bench.launch.supervisor import Event, Limits, run_cell_process
from bench.measure.nvml_device import visible_entries
from bench.records import run_folder
from bench.records.record import Damaged, amend, cell_folder, read_record
from bench.utils.errors import UserError
from bench.utils.text import printable

Report = Callable[[Cell, Event], None]
NO_LIMITS = Limits()


@dataclass(frozen=True)
class Launch:
    """Options of a launcher; they are not part of the cells and their ids.

    Attributes:
        limits: limits on time and memory of a cell.
        parallel: number of cells at a time, at most one per GPU.
        retry_failed: True to run cells again that did not end ok in an earlier run.
        variables: environment variables for cells on other machines; cells on this machine inherit them.
    """

    limits: Limits = NO_LIMITS
    parallel: int = 1
    retry_failed: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


SEQUENTIAL = Launch()


def pending_cells(cells: Sequence[Cell], run: Path, report: Report, retry_failed: bool) -> list[Cell]:
    """Make every cell's folder, and return the cells that have to run.

    Cells with a record from an earlier run are reported as kept. A damaged record is named on standard error, and its
    cell runs again.

    Args:
        cells: all cells of the run.
        run: run folder.
        report: called with a "kept" event per cell that does not run.
        retry_failed: True to run cells again that did not end ok.

    Raises:
        UserError: a folder cannot be made; the message names it.
    """
    todo = []
    for cell in cells:
        folder = cell_folder(run, cell.cell_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            status = run_folder.kept(run, cell.cell_id, retry_failed)
        except Damaged as error:
            print(f"{printable(error)}; the cell runs again", file=sys.stderr)
            status = None
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror or error}") from error
        if status is None:
            todo.append(cell)
        else:
            report(cell, {"event": "kept", "status": status})
    return todo


def run_local(cells: Sequence[Cell], run: Path, report: Report, launch: Launch = SEQUENTIAL) -> None:
    """Run cells on this machine; cells with a record from an earlier run are not run again.

    An interrupt stops the running cells, which are recorded as interrupted, and is raised again when they have ended.

    Args:
        cells: all cells of the run.
        run: run folder.
        report: called in this thread with every event of every cell.
        launch: options of the launcher.

    Raises:
        UserError: a record cannot be written; running further cells would lose their measurements.
    """
    todo = pending_cells(cells, run, report, launch.retry_failed)
    if not todo:
        return
    slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for variables in slot_variables(todo[0].device, launch.parallel):
        slots.put(variables)
    events: queue.SimpleQueue[tuple[Cell, Event] | None] = queue.SimpleQueue()
    stop = threading.Event()

    def work(cell: Cell) -> None:
        if stop.is_set():
            return
        variables = slots.get()
        folder = cell_folder(run, cell.cell_id)
        events.put((cell, {"event": "start"}))
        try:
            run_cell_process(
                cell, folder, lambda event: events.put((cell, event)), launch.limits, stop, variables, fork_server.start
            )
            if launch.parallel > 1 and cell.device == "cpu":
                amend(folder, warnings=[f"{launch.parallel} cells shared the CPU (--parallel)"])
            elif launch.parallel > 1 and affinity.CPUS not in variables:
                amend(folder, warnings=[f"{launch.parallel} cells shared the same CPU cores (--parallel)"])
            events.put((cell, done_event(folder)))
        except BaseException:
            stop.set()
            raise
        finally:
            slots.put(variables)

    with ThreadPoolExecutor(launch.parallel) as pool:
        futures = [pool.submit(work, cell) for cell in todo]
        threading.Thread(target=_end_events, args=(futures, events), daemon=True).start()
        try:
            while (entry := events.get()) is not None:
                report(*entry)
        except BaseException:
            stop.set()
            raise
    for future in futures:
        future.result()


def _end_events(futures: Sequence[Future[None]], events: queue.SimpleQueue[tuple[Cell, Event] | None]) -> None:
    """Wait for all cells, then put the end mark None into the queue."""
    for future in futures:
        future.exception()
    events.put(None)


def resolve_device(device: str) -> str:
    """Resolve the --device option: "auto" is the first GPU, or the CPU if torch sees no GPU.

    Raises:
        UserError: torch does not see this GPU.
    """
    if device == "cpu":
        return device
    import torch

    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices")
    return f"cuda:{index}"


def slot_variables(device: str, parallel: int) -> list[dict[str, str]]:
    """Environment variables of each of ``parallel`` slots for cells: on GPUs each slot sees one GPU or one MIG slice.

    Several slots get an equal share of the CPU cores each, if there are enough cores.

    Raises:
        UserError: there are fewer GPUs or slices than slots, a device is named twice, or ``device`` is a single GPU
            other than the first.
    """
    if parallel == 1:
        return [{}]
    shares = affinity.shares(affinity.cores(), parallel)
    cpus = [affinity.variables(share, os.environ) for share in shares] or [{} for _ in range(parallel)]
    if device == "cpu":
        return cpus
    if device != "cuda:0":
        raise UserError(f"--parallel {parallel}: needs --device auto or cuda, but the device is {device}")
    names = _visible_devices()
    if parallel > len(names):
        raise UserError(
            f"--parallel {parallel}: torch sees {len(names)} CUDA devices; to run on slices of a card (MIG), name each "
            "in CUDA_VISIBLE_DEVICES"
        )
    if len(set(names)) < len(names):
        raise UserError(f"--parallel {parallel}: CUDA_VISIBLE_DEVICES names a device twice ({', '.join(names)})")
    return [{"CUDA_VISIBLE_DEVICES": name} | own for name, own in zip(names[:parallel], cpus, strict=True)]


def _visible_devices() -> list[str]:
    """Names of the devices that cells can run on, one each, for CUDA_VISIBLE_DEVICES."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [] if visible is None else visible_entries(visible)
    # A process of CUDA sees one slice at most, however many are named, so torch's count does not tell.
    if any(name.startswith("MIG-") for name in names):
        return names
    cards = torch.cuda.device_count()
    return names[:cards] if names else [str(index) for index in range(cards)]


def done_event(folder: Path) -> Event:
    """Make the "done" event of a cell from its record."""
    row = read_record(folder)["row"]
    columns = ("status", "error", "hr@10", "valid_hr@10", "epoch_seconds", "peak_memory_bytes")
    return {"event": "done", **{column: row[column] for column in columns}}
