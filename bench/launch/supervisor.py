"""One cell's process under watch: what it says is handed on, and how it ended is told apart.

The process leads a session of its own. What it starts ends with it, and it ends with this process: its standard input
is a pipe that nobody writes to, and when that closes it kills itself (``bench.launch.worker``).
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from typing import Any

import psutil

from bench.config.cells import Cell
from bench.measure.cgroup import oom_kills
from bench.records.record import failure, write_record

ROOT = Path(__file__).parents[2]
PROGRAM = ("-m", "bench.launch.worker")
TICK_SECONDS = 0.2
# Together less than the five seconds within which everything that a cell started must be gone.
GRACE_SECONDS = 2.0
STACKS_SECONDS = 1.0
Event = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """When a cell is stopped. None is no limit.

    Attributes:
        cell_seconds: for the whole cell.
        hang_seconds: without a sign of life.
        memory_bytes: resident, of the cell's process and all that it started.
    """

    cell_seconds: float | None = None
    hang_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Stopped:
    """Why a cell was stopped from here."""

    status: str
    reason: str


def run_cell_process(
    cell: Cell,
    folder: Path,
    report: Callable[[Event], None],
    limits: Limits,
    stop: Flag,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a cell in a fresh process and returns when it and all that it started are gone; there is a record then.

    Args:
        folder: of the cell; it exists.
        report: told every event that the process sends.
        stop: when set, the cell is stopped and recorded as interrupted.
        environment: variables beside those of this process.

    Raises:
        UserError: the record cannot be written.
    """
    (folder / "record.json").unlink(missing_ok=True)
    kills = oom_kills()
    mode = "ab" if (folder / "checkpoint").is_dir() else "wb"  # a cell that goes on keeps what it said before
    with tempfile.TemporaryDirectory(prefix="iisan-bench-") as scratch, (folder / "stderr.txt").open(mode) as errors:
        spec = Path(scratch) / "cell.json"
        spec.write_text(cell.to_json(), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, *PROGRAM, str(spec), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(environment or {}),
            start_new_session=True,
        )
        with _reaped(process):
            stopped = _watch(process, report, limits, stop)
    if not (folder / "record.json").is_file():
        write_record(folder, record_for_dead_worker(cell, folder, process.returncode, stopped, kills))


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """The child imports the same code as this process, installed or not."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | own | {"IISAN_BENCH_PARENT": str(os.getpid())} | dict(more)


@contextlib.contextmanager
def _reaped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block is left, the process and its descendants are gone afterwards."""
    try:
        yield
    finally:
        end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def end(process: subprocess.Popen[bytes], grace: float = GRACE_SECONDS) -> None:
    """Ends a process with all its descendants: first it is asked, then it is killed."""
    others = _descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:  # those that left the session
        with contextlib.suppress(psutil.NoSuchProcess):
            other.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _watch(
    process: subprocess.Popen[bytes], report: Callable[[Event], None], limits: Limits, stop: Flag
) -> Stopped | None:
    """Hands on events until the process ends; gives the reason if it has to be stopped before."""
    assert process.stdout is not None
    started = alive = time.monotonic()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            over = process.poll() is not None  # what it left running may hold its output open
            if selector.select(0 if over else TICK_SECONDS):
                piece = os.read(process.stdout.fileno(), 1 << 16)
                if not piece:  # it may go on without saying anything
                    selector.unregister(process.stdout)
                *lines, rest = (rest + piece).split(b"\n")
                for event in _events(lines):
                    report(event)
                    alive = time.monotonic()
            elif over:
                return None
            if stop.is_set():
                return Stopped("interrupted", "stopped before its end")
            now = time.monotonic()
            if limits.cell_seconds is not None and now - started > limits.cell_seconds:
                return Stopped("timeout", f"not done after {limits.cell_seconds:g} s (--cell-timeout)")
            if limits.hang_seconds is not None and now - alive > limits.hang_seconds:
                _dump_stacks(process)
                return Stopped(
                    "hung", f"no sign of life for {limits.hang_seconds:g} s (--hang-timeout); stacks are in stderr.txt"
                )
            if limits.memory_bytes is not None and (used := _resident(process.pid)) > limits.memory_bytes:
                return Stopped("oom-host", f"took {used:,} bytes of {limits.memory_bytes:,} (--memory-limit)")


def _events(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a library printed something
        if isinstance(event, dict) and "event" in event:
            yield event


def _dump_stacks(process: subprocess.Popen[bytes]) -> None:
    """Has faulthandler write where every thread is (see ``bench.launch.worker``)."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGUSR1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=STACKS_SECONDS)


def _resident(pid: int) -> int:
    """Bytes of a process and its descendants; shared pages count in each."""
    total = 0
    try:
        for process in (own := psutil.Process(pid), *own.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
    return total


def record_for_dead_worker(
    cell: Cell, folder: Path, code: int, stopped: Stopped | None, kills_before: int | None
) -> dict[str, Any]:
    """The record of a cell that left none."""
    if stopped is not None:
        return failure(cell, stopped.status, stopped.reason)
    if code == -signal.SIGKILL:
        return failure(cell, "oom-host", f"the process was killed (signal 9), {_by_whom(kills_before)}")
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    tail = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    said = f": {tail[0]}" if tail else ""
    return failure(cell, "failed", f"the process died with {how}{said}")


def _by_whom(kills_before: int | None) -> str:
    kills = oom_kills()
    if kills is None or kills_before is None:
        return "most likely by the kernel for lack of host memory"
    if kills > kills_before:
        return "by the kernel for lack of host memory"
    return "as the kernel does for lack of host memory, but it has counted no such kill: somebody else may have done it"
