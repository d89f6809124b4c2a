"""What the control groups of this process allow it: containers and batch systems set limits that no core count shows.

Reads versions 1 and 2 of Linux's cgroup files (kernel documentation, admin-guide/cgroup-v1 and cgroup-v2). A limit of
any group above the process binds it too, so every level is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# Version 1 says "no limit" with the largest number of pages there is.
_NO_LIMIT = 1 << 60


def cpu_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """How many CPUs' worth of time the process may use; None without a limit, or where there are no cgroups."""
    limits = []
    for folder in _folders("cpu", root, membership):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us") or ""
            period = _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes of memory that the process may use; None without a limit, or where there are no cgroups."""
    limits = []
    for folder in _folders("memory", root, membership):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or ""
        if text.isdecimal() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def throttled_seconds(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Seconds for which a CPU quota has held the process's group back since it was made; None where unknown."""
    seconds = []
    for folder in _folders("cpu", root, membership):
        for line in (_read(folder / "cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "throttled_usec":
                seconds.append(int(value) * 1e-6)
            elif name == "throttled_time":
                seconds.append(int(value) * 1e-9)
    return max(seconds, default=None)


def oom_kills(root: Path = ROOT, membership: Path = MEMBERSHIP, vmstat: Path = Path("/proc/vmstat")) -> int | None:
    """How many processes the kernel has killed for lack of memory, in this group and on the machine; None if unknown.

    The machine's counter is the one of all groups where it is told; a container may see its own group's alone.
    """
    counts = []
    for file in (*(f / "memory.events" for f in _folders("memory", root, membership)), vmstat):
        for line in (_read(file) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdecimal():
                counts.append(int(value))
    return sum(counts) if counts else None


def _folders(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """The folders that govern the process, its own group first and the root last, for either version."""
    for line in (_read(membership) or "").splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            base = root
        elif controller in names.split(","):
            base = next((b for b in (root / names, root / controller) if b.is_dir()), root / names)
        else:
            continue
        # Seen from inside a container the path can be the host's, which is not there: then the mount is the group.
        below = Path(path.lstrip("/"))
        yield from (folder for folder in (base / below, *(base / p for p in below.parents)) if folder.is_dir())


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
