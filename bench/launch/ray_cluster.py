"""From cells to the nodes of a Ray cluster.

A cell is a Ray task that asks for all that it is timed on: a GPU, or without GPUs every CPU of its node, so that two
cells never share it. On its node the task watches a fresh process exactly as ``bench.launch.local`` does here. What
the cell
leaves travels back, and this process alone writes the run folder. When a worker or a node is lost, the cell runs again
elsewhere; when this process is, Ray ends the tasks, and a run of the same matrix goes on later.
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
from bench.launch.local import Launch, Report, outcome, pending
from bench.launch.supervisor import Event, Limits, run_cell_process
from bench.records.record import amend, cell_folder, failure, one_line, receive, write_record
from bench.utils.errors import UserError

ATTEMPTS = 3
CONNECT_SECONDS = 10.0
WAIT_SECONDS = 0.5
# A cluster on which nothing runs and that has no place for what is left will hardly get one.
PATIENCE_SECONDS = 180.0
DOUBT_SECONDS = 60.0


@dataclass(frozen=True)
class Place:
    """What one cell at a time runs on.

    Attributes:
        node: Ray's id of it.
        name: its address.
        cpus, gpus: what the cell takes of it.
    """

    node: str
    name: str
    cpus: float
    gpus: int
    index: int = 0


@dataclass
class Running:
    """A cell that was handed out; ``attempt`` counts from 1."""

    cell: Cell
    place: Place
    attempt: int


@dataclass
class State:
    """The driver's books: cells that wait, those that run, the names of the nodes that each was lost on, and when a
    node last lost one: Ray takes a while to know that it is dead.
    """

    waiting: list[Cell]
    running: dict[Any, Running] = field(default_factory=dict)
    lost: dict[str, list[str]] = field(default_factory=dict)
    doubtful: dict[str, float] = field(default_factory=dict)

    def free(self, place: Place) -> bool:
        """Whether a cell can be given to a place now."""
        if time.monotonic() - self.doubtful.get(place.node, -DOUBT_SECONDS) < DOUBT_SECONDS:
            return False
        return all((r.place.node, r.place.index) != (place.node, place.index) for r in self.running.values())


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """A connection to an existing cluster; gives the ``ray`` module.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray: Ray is not installed; pip install 'iisan-bench[ray]'") from error
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="iisan-bench")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = one_line(str(error))
        raise UserError(f"--ray-address {address}: no cluster answers ({said}); ray start --head begins one") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdecimal():
        raise UserError(f"--ray-address {address}: expected auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--ray-address {address}: no cluster answers ({error}); ray start --head begins one"
        ) from error


def resolve_device(ray: Any, device: str) -> str:
    """The device of cells by what the cluster has: each sees the card that Ray gave it as the first.

    Raises:
        UserError: a GPU that no node has.
    """
    cards = int(ray.cluster_resources().get("GPU", 0))
    if device == "cpu" or (device == "auto" and not cards):
        return "cpu"
    if not cards:
        raise UserError(f"--device {device}: no node of the cluster has a GPU")
    if device not in ("auto", "cuda", "cuda:0"):
        raise UserError(f"--device {device}: Ray chooses the card; use --device cuda")
    return "cuda:0"


def places(nodes: Sequence[dict[str, Any]], device: str) -> list[Place]:
    """Where cells can run, from what ``ray.nodes()`` tells: each GPU, or each node with all its CPUs."""
    found = []
    for node in nodes:
        if not node["Alive"]:
            continue
        resources, name = node["Resources"], str(node["NodeManagerAddress"])
        cpus, gpus = float(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        if device == "cpu":
            found += [Place(node["NodeID"], name, cpus, 0)] if cpus >= 1 else []
        else:
            found += [Place(node["NodeID"], name, cpus // gpus, 1, index) for index in range(gpus)]
    return found


def run_ray(ray: Any, cells: Sequence[Cell], run: Path, report: Report, launch: Launch) -> None:
    """Runs cells on a cluster; those that an earlier run has dealt with are kept.

    Raises:
        UserError: a record cannot be written, or the cluster has no place for a cell.
    """
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    state = State(pending(cells, run, report, launch.retry_failed))
    if not state.waiting:
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    inbox = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # not to be lost with a node
    measure = ray.remote(max_retries=0)(_measure)
    idle_since = time.monotonic()
    try:
        while state.waiting or state.running:
            _hand_out(ray, measure, inbox, state, launch, report)
            done, _ = ray.wait([*state.running], timeout=WAIT_SECONDS) if state.running else ([], [])
            with suppress(ray.exceptions.RayActorError):  # what cells say on the way is no result
                _hand_on(inbox, {r.cell.cell_id: r.cell for r in state.running.values()}, report)
            for reference in done:
                _take(ray, reference, state, run, report)
            if state.running:
                idle_since = time.monotonic()
            elif state.waiting:
                if time.monotonic() - idle_since > PATIENCE_SECONDS:
                    raise UserError(f"the cluster has no place for {state.waiting[0].cell_id}")
                time.sleep(WAIT_SECONDS)
    except BaseException:
        _stop(ray, state, run)
        raise


def _hand_out(ray: Any, measure: Any, inbox: Any, state: State, launch: Launch, report: Report) -> None:
    """Gives the next cells to the places that are free."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not state.waiting:
        return
    for place in places(ray.nodes(), state.waiting[0].device):
        if not state.free(place):
            continue
        if not state.waiting:
            return
        cell = state.waiting.pop(0)
        attempt = len(state.lost.get(cell.cell_id, ())) + 1
        reference = measure.options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(cell.to_json(), launch.limits, inbox, launch.variables)
        state.running[reference] = Running(cell, place, attempt)
        report(cell, {"event": "start"})


def _hand_on(inbox: Any, cells: dict[str, Cell], report: Report) -> None:
    for cell_id, event in inbox.get_nowait_batch(inbox.qsize()):
        if cell_id in cells:
            report(cells[cell_id], event)


def _take(ray: Any, reference: Any, state: State, run: Path, report: Report) -> None:
    """Writes down what a cell left, or has it run again if its worker or node was lost."""
    running = state.running.pop(reference)
    cell, lost = running.cell, state.lost.setdefault(running.cell.cell_id, [])
    folder = cell_folder(run, cell.cell_id)
    try:
        receive(folder, ray.get(reference))
    except ray.exceptions.RayTaskError as error:  # of this program's own: running it again would not help
        write_record(folder, failure(cell, "failed", str(error.cause), str(error)))
    except ray.exceptions.RayError as error:
        lost.append(running.place.name)
        state.doubtful[running.place.node] = time.monotonic()
        if len(lost) < ATTEMPTS:
            state.waiting.append(cell)
            return
        said = f"its worker or node was lost {ATTEMPTS} times ({one_line(str(error))})"
        write_record(folder, failure(cell, "failed", said))
    more = [f"ran again after {len(lost)} lost worker{'s' * (len(lost) > 1)} or nodes"] if lost else []
    ran = {"launcher": "ray", "node": running.place.name, "attempts": running.attempt, "lost_on": lost}
    amend(folder, ran=ran, warnings=more)
    report(cell, {"event": "done", **outcome(folder)})


def _stop(ray: Any, state: State, run: Path) -> None:
    """Ends the tasks; their cells die with the workers that watch them."""
    for reference, running in state.running.items():
        ray.cancel(reference, force=True)
        folder = cell_folder(run, running.cell.cell_id)
        write_record(folder, failure(running.cell, "interrupted", "stopped before its end"))


def _measure(spec: str, limits: Limits, inbox: Any, variables: Mapping[str, str]) -> dict[str, bytes]:
    """What runs on a node: one cell in a process of its own; gives its files by name."""
    cell = Cell.from_json(spec)
    os.environ.update(variables)  # a node has its own environment, and options go over it

    def send(event: Event) -> None:
        inbox.actor.put_nowait.remote((cell.cell_id, event))  # nobody waits for it

    with tempfile.TemporaryDirectory(prefix="iisan-bench-cell-") as scratch:
        folder = Path(scratch)
        run_cell_process(cell, folder, send, limits, threading.Event())
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
