"""From cells to processes on this machine: one after the other, or one per GPU.

Cells run in fresh processes that threads of this one watch; everything that they say is handed on in the main thread,
where an interrupt arrives too.
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
from typing import Any

from bench.config.cells import Cell
from bench.launch.supervisor import Event, Limits, run_cell_process
from bench.records import run_folder
from bench.records.record import Damaged, amend, cell_folder, read_record
from bench.utils.errors import UserError
from bench.utils.text import printable

Report = Callable[[Cell, Event], None]
NO_LIMITS = Limits()


@dataclass(frozen=True)
class Launch:
    """How cells are run; no part of what they are.

    Attributes:
        parallel: cells at a time: one per GPU, or on the CPU as told.
        retry_failed: run again what did not end ok in an earlier run.
        variables: of the environment, that cells on other machines are to see; here they have them already.
    """

    limits: Limits = NO_LIMITS
    parallel: int = 1
    retry_failed: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)


ONE_BY_ONE = Launch()


def pending(cells: Sequence[Cell], run: Path, report: Report, retry_failed: bool) -> list[Cell]:
    """Makes every cell's folder, and gives the cells that have to run; those with a result are reported as kept.

    A damaged result is named on standard error, and its cell runs again.
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


def run_local(cells: Sequence[Cell], run: Path, report: Report, launch: Launch = ONE_BY_ONE) -> None:
    """Runs cells on this machine; those that an earlier run has dealt with are kept.

    An interrupt stops the running cells, which are recorded as interrupted, and is raised again when they are gone.

    Raises:
        UserError: a record cannot be written, so that going on would lose what is measured.
    """
    todo = pending(cells, run, report, launch.retry_failed)
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
            run_cell_process(cell, folder, lambda event: events.put((cell, event)), launch.limits, stop, variables)
            if launch.parallel > 1 and cell.device == "cpu":
                amend(folder, warnings=[f"{launch.parallel} cells ran at a time on one CPU"])
            events.put((cell, {"event": "done", **outcome(folder)}))
        except BaseException:
            stop.set()
            raise
        finally:
            slots.put(variables)

    with ThreadPoolExecutor(launch.parallel) as pool:
        futures = [pool.submit(work, cell) for cell in todo]
        threading.Thread(target=_close, args=(futures, events), daemon=True).start()
        try:
            while (entry := events.get()) is not None:
                report(*entry)
        except BaseException:
            stop.set()
            raise
    for future in futures:
        future.result()


def _close(futures: Sequence[Future[None]], events: queue.SimpleQueue[tuple[Cell, Event] | None]) -> None:
    for future in futures:
        future.exception()
    events.put(None)


def resolve_device(device: str) -> str:
    """Device that cells run on; "auto" is the first GPU, or the CPU if torch sees none.

    Raises:
        UserError: torch does not see the GPU.
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
    """Environment variables of each place that a cell can run in: on GPUs one card for each.

    Raises:
        UserError: more places than cards, or a single card named.
    """
    if parallel == 1 or device == "cpu":
        return [{} for _ in range(parallel)]
    import torch

    if device != "cuda:0":
        raise UserError(f"--parallel {parallel}: needs --device auto or cuda, not one card ({device})")
    cards = torch.cuda.device_count()
    if parallel > cards:
        raise UserError(f"--parallel {parallel}: torch sees {cards} CUDA devices")
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in seen.split(",")] if seen else [str(index) for index in range(cards)]
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names[:parallel]]


def outcome(folder: Path) -> dict[str, Any]:
    """What is said of a cell when it is done."""
    row = read_record(folder)["row"]
    return {key: row[key] for key in ("status", "error", "hr@10", "valid_hr@10", "epoch_seconds", "peak_memory_bytes")}
