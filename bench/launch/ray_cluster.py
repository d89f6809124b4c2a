"""Ray launcher: runs cells on the nodes of an existing Ray cluster.

A cell is a Ray task that reserves the hardware it is timed on: one GPU, or without GPUs all CPUs of a node, so that two
cells never share it. On its node the task supervises a fresh process exactly as ``bench.launch.local`` does. The files
of the cell are sent back, and only the driver, this process, writes the run folder. If a worker or node is lost, its
cell runs again on another one. If the driver is lost, Ray ends the tasks, and the same command continues the run later.
"""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.cells import Cell
from bench.launch.affinity import Core, cores, shares, started_with
from bench.launch.affinity import variables as affinity_variables
from bench.launch.local import Launch, Report, done_event, pending_cells
from bench.launch.supervisor import Event, Limits, run_cell_process
from bench.records.record import Damaged, amend, cell_folder, failure, one_line, receive, write_record
from bench.utils.errors import UserError

ATTEMPTS = 3
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 0.5
# Wait for a place while no cell runs; a cluster without one after that long will hardly get one.
PATIENCE_SECONDS = 180.0
# Time without new cells for a node that has lost one: Ray needs a while to notice that a node is dead.
SUSPECT_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """Part of a node on which one cell at a time runs.

    Attributes:
        node: Ray's id of the node.
        name: address of the node.
        cpus, gpus: number of CPUs and GPUs that a cell reserves; Ray counts hyperthreads as CPUs.
        index: number of the place on its node, from 0.
        parts: number of places on the node.
    """

    node: str
    name: str
    cpus: float
    gpus: int
    index: int = 0
    parts: int = 1


@dataclass
class Running:
    """Cell that runs on a place; ``attempt`` counts from 1."""

    cell: Cell
    place: Place
    attempt: int


@dataclass
class ClusterState:
    """State of a run in the driver.

    Attributes:
        waiting: cells that have to run, in order.
        running: Ray's reference of a task -> its cell.
        lost: cell id -> names of the nodes on which the cell was lost.
        suspect_since: node -> time of ``time.monotonic`` at which it last lost a cell.
    """

    waiting: list[Cell]
    running: dict[Any, Running] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    suspect_since: dict[str, float] = field(default_factory=dict)

    def is_free(self, place: Place) -> bool:
        """True if a cell can be sent to a place now."""
        if time.monotonic() - self.suspect_since.get(place.node, -SUSPECT_SECONDS) < SUSPECT_SECONDS:
            return False
        return all((r.place.node, r.place.index) != (place.node, place.index) for r in self.running.values())


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """Context of a connection to an existing cluster; returns the ``ray`` module.

    Args:
        address: "auto" or HOST:PORT.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "--launcher ray: Ray is not installed; install it with pip install 'iisan-bench[ray]'"
        ) from error
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="iisan-bench")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = one_line(str(error))
        raise UserError(
            f"--ray-address {address}: no cluster answers ({reason}); start one with ray start --head"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail within seconds if no cluster answers; Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise UserError(f"--ray-address {address}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address {address}: no cluster answers ({error}); start one with ray start --head"
        ) from error


def resolve_device(ray: Any, device: str) -> str:
    """Resolve the --device option by the cluster's GPUs; a cell sees the GPU that Ray gave it as ``cuda:0``.

    Raises:
        UserError: no node has a GPU, or ``device`` names a GPU other than the first.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if device == "cpu" or (device == "auto" and not gpus):
        return "cpu"
    if not gpus:
        raise UserError(f"--device {device}: no node of the cluster has a GPU")
    if device not in ("auto", "cuda", "cuda:0"):
        raise UserError(f"--device {device}: Ray chooses the GPU; use --device cuda")
    return "cuda:0"


def places(nodes: Sequence[dict[str, Any]], device: str) -> list[Place]:
    """List the places for cells: each GPU, or each node with all its CPUs.

    Args:
        nodes: result of ``ray.nodes()``.
        device: device of the cells.
    """
    available = []
    for node in nodes:
        if not node["Alive"]:
            continue
        resources, name = node["Resources"], str(node["NodeManagerAddress"])
        cpus, gpus = float(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if device == "cpu":
            available += [Place(node["NodeID"], name, cpus, 0)] if cpus >= 1 else []
        else:
            available += [Place(node["NodeID"], name, cpus // gpus, 1, index, gpus) for index in range(gpus)]
    return available


def run_ray(ray: Any, cells: Sequence[Cell], run: Path, report: Report, launch: Launch) -> None:
    """Run cells on a cluster; cells with a record from an earlier run are not run again.

    Args:
        ray: the ``ray`` module, connected to the cluster.
        cells: all cells of the run.
        run: run folder.
        report: called in this thread with every event of every cell.
        launch: options of the launcher; ``parallel`` is not used.

    Raises:
        UserError: a record cannot be written, or the cluster has no place for a cell.
    """
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    state = ClusterState(pending_cells(cells, run, report, launch.retry_failed))
    if not state.waiting:
        return
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    inbox = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": driver_node})  # survives other nodes
    measure = ray.remote(max_retries=0)(_measure)
    idle_since = time.monotonic()
    try:
        while state.waiting or state.running:
            _submit(ray, measure, inbox, state, launch, report)
            done, _ = ray.wait([*state.running], timeout=WAIT_SECONDS) if state.running else ([], [])
            with suppress(ray.exceptions.RayActorError):  # events may be lost, results may not
                _forward_events(inbox, {r.cell.cell_id: r.cell for r in state.running.values()}, report)
            for reference in done:
                _collect(ray, reference, state, run, report)
            if state.running:
                idle_since = time.monotonic()
            elif state.waiting:
                if time.monotonic() - idle_since > PATIENCE_SECONDS:
                    raise UserError(f"--launcher ray: the cluster has no place for cell {state.waiting[0].cell_id}")
                time.sleep(WAIT_SECONDS)
    except BaseException:
        _cancel(ray, state, run)
        raise


def _submit(ray: Any, measure: Any, inbox: Any, state: ClusterState, launch: Launch, report: Report) -> None:
    """Send the next cells to the places that are free."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not state.waiting:
        return
    for place in places(ray.nodes(), state.waiting[0].device):
        if not state.is_free(place):
            continue
        if not state.waiting:
            return
        cell = state.waiting.pop(0)
        attempt = len(state.lost.get(cell.cell_id, ())) + 1
        reference = measure.options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(cell.to_json(), launch.limits, inbox, launch.variables, place)
        state.running[reference] = Running(cell, place, attempt)
        report(cell, {"event": "start"})


def _forward_events(inbox: Any, cells: dict[str, Cell], report: Report) -> None:
    """Report the events that running cells, by id, have sent."""
    for cell_id, event in inbox.get_nowait_batch(inbox.qsize()):
        if cell_id in cells:
            report(cells[cell_id], event)


def _collect(ray: Any, reference: Any, state: ClusterState, run: Path, report: Report) -> None:
    """Write the files of a finished cell, or put the cell back in the queue if its worker or node was lost."""
    running = state.running.pop(reference)
    cell, lost = running.cell, state.lost.setdefault(running.cell.cell_id, [])
    folder = cell_folder(run, cell.cell_id)
    try:
        receive(folder, ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # an error in this program would occur again
        write_record(folder, failure(cell, "failed", str(error.cause), str(error)))
    except (ray.exceptions.RayError, Damaged) as error:  # lost, or damaged on its way here
        lost.append(running.place.name)
        state.suspect_since[running.place.node] = time.monotonic()
        if len(lost) < ATTEMPTS:
            state.waiting.append(cell)
            return
        message = f"the cell's worker, node or files were lost {ATTEMPTS} times ({one_line(str(error))})"
        write_record(folder, failure(cell, "failed", message))
    warnings = [f"the cell ran again after a lost worker or node ({len(lost)} lost)"] if lost else []
    ran = {"launcher": "ray", "node": running.place.name, "attempts": running.attempt, "lost_on": lost}
    amend(folder, ran=ran, warnings=warnings)
    report(cell, done_event(folder))


def _cancel(ray: Any, state: ClusterState, run: Path) -> None:
    """Cancel all tasks and record their cells as interrupted; a cell's process ends with the task that watches it."""
    for reference, running in state.running.items():
        ray.cancel(reference, force=True)
        folder = cell_folder(run, running.cell.cell_id)
        write_record(folder, failure(running.cell, "interrupted", "stopped before its end"))


def cell_variables(place: Place, found: Sequence[Core], environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a cell on a node: the same cores and threads that a local cell would have.

    Args:
        place: where the cell runs.
        found: cores of the node.
        environment: environment of the node, without what Ray has set in it.
    """
    parts = shares(found, place.parts)
    if not parts:
        return {}
    share = parts[place.index]
    # Ray may have been given a part of the node's CPUs.
    count = round(place.cpus * len(share) / sum(len(core) for core in share))
    return affinity_variables(share[: max(1, count)], environment, pinned=place.parts > 1)


def _measure(spec: str, limits: Limits, inbox: Any, variables: Mapping[str, str], place: Place) -> dict[str, bytes]:
    """Ray task: run one cell in a separate process; return the contents of its files by name."""
    cell = Cell.from_json(spec)
    os.environ.update(variables)  # they override the environment of the node
    # Ray sets the number of threads to that of its CPUs unless it was set before.
    before = started_with()
    own = {} if before is None else cell_variables(place, cores(), before | dict(variables))

    def send(event: Event) -> None:
        inbox.actor.put_nowait.remote((cell.cell_id, event))  # not waited for

    with tempfile.TemporaryDirectory(prefix="iisan-bench-cell-") as scratch:
        folder = Path(scratch)
        run_cell_process(cell, folder, send, limits, threading.Event(), own)
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
