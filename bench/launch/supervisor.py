"""Supervision of one cell's process: forwards its events, enforces limits, and records how it ended.

The cell's process leads its own session, and all processes that it starts are ended with it. The cell's process also
ends when the supervising process ends: its standard input is a pipe without data from the supervisor, and it kills
itself when the pipe closes (``bench.launch.worker``).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import IO, Any, Protocol

import psutil

from bench.config.cells import Cell
from bench.measure.cgroup import oom_kills
from bench.records.record import failure, write_record

ROOT = Path(__file__).parents[2]
WORKER = "bench.launch.worker"
TICK_SECONDS = 0.2
# All processes of a stopped cell must have ended within five seconds, so these two waits together must be shorter.
GRACE_SECONDS = 2.0
STACKS_SECONDS = 1.0
Event = dict[str, Any]


class Process(Protocol):
    """Running process of a cell, as ``subprocess.Popen`` and ``bench.launch.fork_server`` give it."""

    pid: int
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None

    def poll(self) -> int | None:
        """Exit status, or minus the number of the signal that ended the process; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; ``subprocess.TimeoutExpired`` if it does not come within ``timeout`` seconds."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless the process has ended."""

    def terminate(self) -> None:
        """Send SIGTERM, unless the process has ended."""


Start = Callable[[str, Sequence[str], int, Mapping[str, str]], Process]
"""Starts a module with a command line, a file descriptor for its standard error, and its environment."""


@dataclass(frozen=True)
class Limits:
    """Limits beyond which a cell is stopped; None means that there is no limit.

    Attributes:
        cell_seconds: seconds of the whole cell.
        hang_seconds: seconds without an event from the cell.
        memory_bytes: resident bytes of the cell's process and all processes that it started.
    """

    cell_seconds: float | None = None
    hang_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Stopped:
    """Status and error message of a cell that the supervisor stopped."""

    status: str
    reason: str


def run_cell_process(
    cell: Cell,
    folder: Path,
    report: Callable[[Event], None],
    limits: Limits,
    stop: Flag,
    environment: Mapping[str, str] | None = None,
    start: Start | None = None,
) -> None:
    """Run a cell in a fresh process; on return the process and its descendants have ended and the record exists.

    Args:
        cell: cell to run.
        folder: folder of the cell, which must exist.
        report: called with every event that the process sends.
        limits: limits on time and memory.
        stop: flag; when set, the cell is stopped and recorded as interrupted.
        environment: environment variables in addition to those of this process.
        start: how to start the process; None for a new interpreter, which imports everything anew.

    Raises:
        UserError: the record cannot be written.
    """
    (folder / "record.json").unlink(missing_ok=True)
    kills = oom_kills()
    mode = "ab" if (folder / "checkpoint").is_dir() else "wb"  # a cell that resumes appends to its log
    with tempfile.TemporaryDirectory(prefix="iisan-bench-") as scratch, (folder / "stderr.txt").open(mode) as errors:
        spec = Path(scratch) / "cell.json"
        spec.write_text(cell.to_json(), encoding="utf-8")
        start = start or start_interpreter
        arguments = str(spec), str(folder), repr(time.monotonic())
        process = start(WORKER, arguments, errors.fileno(), cell_environment(environment or {}))
        with _ended(process):
            stopped = _watch(process, report, limits, stop)
    if not (folder / "record.json").is_file():
        write_record(folder, record_for_dead_worker(cell, folder, process.wait(), stopped, kills))


def start_interpreter(
    module: str, arguments: Sequence[str], errors: int, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Run a module in a new interpreter that leads its own session, with pipes to its input and from its output."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        start_new_session=True,
    )


def cell_environment(additional: Mapping[str, str]) -> dict[str, str]:
    """Environment of the cell's process, which imports the same code as this process, even if it is not installed."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | own | {"IISAN_BENCH_PARENT": str(os.getpid())} | dict(additional)


@contextlib.contextmanager
def _ended(process: Process) -> Iterator[None]:
    """Context on whose exit, for whatever reason, the process and its descendants are ended."""
    try:
        yield
    finally:
        end_process(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def end_process(process: Process, grace: float = GRACE_SECONDS) -> None:
    """End a process with all its descendants: by SIGTERM, then by SIGKILL.

    Args:
        process: leader of its session.
        grace: seconds between the signals.
    """
    descendants = _descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for descendant in descendants:  # some may have left the session
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _watch(process: Process, report: Callable[[Event], None], limits: Limits, stop: Flag) -> Stopped | None:
    """Forward events until the process ends; return the reason if the process has to be stopped, else None."""
    assert process.stdout is not None
    started = alive = time.monotonic()
    incomplete = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            ended = process.poll() is not None  # its descendants may still hold its output open
            if selector.select(0 if ended else TICK_SECONDS):
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:  # the process may close its output and continue
                    selector.unregister(process.stdout)
                *lines, incomplete = (incomplete + chunk).split(b"\n")
                for event in _events(lines):
                    report(event)
                    alive = time.monotonic()
            elif ended:
                return None
            if stop.is_set():
                return Stopped("interrupted", "stopped before its end")
            now = time.monotonic()
            if limits.cell_seconds is not None and now - started > limits.cell_seconds:
                return Stopped("timeout", f"stopped after {limits.cell_seconds:g} s (--cell-timeout)")
            if limits.hang_seconds is not None and now - alive > limits.hang_seconds:
                _dump_stacks(process)
                return Stopped(
                    "hung", f"no sign of life for {limits.hang_seconds:g} s (--hang-timeout); stderr.txt has the stacks"
                )
            if limits.memory_bytes is not None and (used := _resident(process.pid)) > limits.memory_bytes:
                return Stopped("oom-host", f"used {used:,} bytes, more than {limits.memory_bytes:,} (--memory-limit)")


def _events(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # output of a library
        if isinstance(event, dict) and "event" in event:
            yield event


def _dump_stacks(process: Process) -> None:
    """Make faulthandler write the stacks of all threads to stderr.txt (see ``bench.launch.worker``)."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGUSR1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STACKS_SECONDS)


def _resident(pid: int) -> int:
    """Resident bytes of a process and its descendants; shared pages count once per process."""
    total = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total


def record_for_dead_worker(
    cell: Cell, folder: Path, code: int, stopped: Stopped | None, kills_before: int | None
) -> dict[str, Any]:
    """Failure record for a worker that died without writing one.

    Args:
        cell: cell of the worker.
        folder: folder of the cell, with ``stderr.txt``.
        code: exit status of the worker, or minus the number of the signal that ended it.
        stopped: reason if the supervisor stopped the cell, else None.
        kills_before: the kernel's count of kills for lack of memory before the cell; None is unknown.
    """
    if stopped is not None:
        return failure(cell, stopped.status, stopped.reason)
    if code == -signal.SIGKILL:
        return failure(cell, "oom-host", f"the process was killed (signal 9), {_killed_by(kills_before)}")
    cause = f"signal {-code}" if code < 0 else f"exit status {code}"
    tail = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    last_line = f": {tail[0]}" if tail else ""
    return failure(cell, "failed", f"the process died with {cause}{last_line}")


def _killed_by(kills_before: int | None) -> str:
    """Text on the sender of SIGKILL, from the kernel's count of kills for lack of memory."""
    kills = oom_kills()
    if kills is None or kills_before is None:
        return "most likely by the kernel for lack of host memory"
    if kills > kills_before:
        return "by the kernel for lack of host memory"
    return "but the kernel has counted no kill for lack of host memory; another process may have sent the signal"
