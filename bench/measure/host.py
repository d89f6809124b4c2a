"""Peak resident memory of this process, and disturbances by the rest of the machine during a measurement."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TypeVar

import psutil

from bench.measure import cgroup

Number = TypeVar("Number", int, float)

OTHERS_LIMIT = 0.10
THROTTLE_LIMIT = 0.01
# CPU times are counted in ticks of 10 ms; over a shorter period a share would rest on a few ticks.
SHORTEST_SECONDS = 1.0


def peak_rss_bytes(status: Path = Path("/proc/self/status")) -> int | None:
    """Peak resident set size of this process so far, in bytes; None if the system does not report it.

    Read from `VmHWM`, which starts at zero with a program, and in a fork with the pages that it shares with its parent;
    `ru_maxrss` is inherited from a larger parent process.
    """
    peak = re.search(r"^VmHWM:\s*(\d+) kB$", _text(status), re.MULTILINE)
    return int(peak[1]) * 1024 if peak else None


@dataclass(frozen=True)
class Snapshot:
    """Running totals at one moment, in seconds and bytes; None if the system does not report a value.

    Attributes:
        at: time of the snapshot, seconds on a monotonic clock.
        capacity: CPU seconds of all cores, idle time included.
        busy: CPU seconds of all cores, idle time excluded.
        own: CPU seconds of this process and its descendants.
        swapped_in, swapped_out: bytes that the machine has swapped.
        throttled: seconds for which a CPU quota has throttled this process's group.
    """

    at: float
    capacity: float
    busy: float
    own: float
    swapped_in: int | None
    swapped_out: int | None
    throttled: float | None


@dataclass(frozen=True)
class MachineReading:
    """Disturbances of a period; unknown values are None.

    Attributes:
        seconds: length of the period.
        others_share: share of the machine's CPU time used by processes other than this one and its descendants; time
            stolen by a hypervisor is included.
        swapped_in, swapped_out: bytes that the machine has swapped.
        throttled_seconds: time for which a CPU quota has throttled this process's group.
        warnings: one line per disturbance that makes the measurement doubtful.
    """

    seconds: float
    others_share: float | None
    swapped_in: int | None
    swapped_out: int | None
    throttled_seconds: float | None
    warnings: tuple[str, ...]


class MachineWatch:
    """Context that measures disturbances by the machine while the block runs; the result is `reading`."""

    def __init__(self) -> None:
        self._before: Snapshot | None = None
        self.reading: MachineReading | None = None

    def __enter__(self) -> MachineWatch:
        """Start the period."""
        self._before = take_snapshot()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the period, also after an exception."""
        assert self._before is not None
        self.reading = compare(self._before, take_snapshot())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Disturbances that make the measurement doubtful; those so far while the period lasts."""
        if self.reading is not None:
            return self.reading.warnings
        return () if self._before is None else compare(self._before, take_snapshot()).warnings


def take_snapshot(vmstat: Path = Path("/proc/vmstat")) -> Snapshot:
    """Current totals of the machine, and of this process with its descendants."""
    cpu = psutil.cpu_times()._asdict()
    # Linux includes guest time in user and nice time already.
    capacity = sum(value for name, value in cpu.items() if not name.startswith("guest"))
    pages = {name: int(value) for name, value in re.findall(r"^(pswp\w+) (\d+)$", _text(vmstat), re.MULTILINE)}
    size = os.sysconf("SC_PAGE_SIZE")
    return Snapshot(
        at=monotonic(),
        capacity=capacity,
        busy=capacity - cpu["idle"] - cpu.get("iowait", 0.0),
        own=_own_seconds(),
        swapped_in=pages["pswpin"] * size if "pswpin" in pages else None,
        swapped_out=pages["pswpout"] * size if "pswpout" in pages else None,
        throttled=cgroup.throttled_seconds(),
    )


def compare(before: Snapshot, after: Snapshot) -> MachineReading:
    """Disturbances between two snapshots, with their warnings."""
    seconds = after.at - before.at
    share = None
    if seconds >= SHORTEST_SECONDS and after.capacity > before.capacity:
        others = (after.busy - before.busy) - (after.own - before.own)
        share = max(0.0, others) / (after.capacity - before.capacity)
    swapped_in = _difference(before.swapped_in, after.swapped_in)
    swapped_out = _difference(before.swapped_out, after.swapped_out)
    throttled = _difference(before.throttled, after.throttled)
    warnings = []
    if share is not None and share > OTHERS_LIMIT:
        warnings.append(f"other processes took {share:.0%} of the machine's CPU time (more than {OTHERS_LIMIT:.0%})")
    if swapped_in or swapped_out:
        warnings.append(f"the machine swapped: {_mebibytes(swapped_in)} in, {_mebibytes(swapped_out)} out")
    if throttled is not None and throttled > THROTTLE_LIMIT * seconds:
        warnings.append(f"a CPU quota (cgroup) throttled this process for {throttled:.1f} s of {seconds:.1f} s")
    return MachineReading(seconds, share, swapped_in, swapped_out, throttled, tuple(warnings))


def _own_seconds() -> float:
    """CPU seconds of this process, its living descendants, and its finished children."""
    process = psutil.Process()
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        try:
            times = member.cpu_times()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _difference(before: Number | None, after: Number | None) -> Number | None:
    return None if before is None or after is None else after - before


def _mebibytes(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 2**20:.1f} MiB"


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
