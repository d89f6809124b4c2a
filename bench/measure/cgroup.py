"""Limits and counters of this process's control groups (cgroups): CPU quota, memory limit, throttling, OOM kills.

Containers and batch systems set such limits, and neither a core count nor psutil shows them. Both versions of Linux's
cgroup files are read (kernel documentation, admin-guide/cgroup-v1 and cgroup-v2). A limit of any parent group binds
the process too, so every level is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")

# Version 1 writes "no limit" as the largest possible number of pages.
_NO_LIMIT = 1 << 60


def cpu_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """CPU time that the process may use, as a number of CPUs; None without a limit or without cgroups."""
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
    """Memory that the process may use, in bytes; None without a limit or without cgroups."""
    limits = []
    for folder in _folders("memory", root, membership):
        text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes") or ""
        if text.isdecimal() and int(text) < _NO_LIMIT:
            limits.append(int(text))
    return min(limits, default=None)


def throttled_seconds(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Seconds for which a CPU quota has throttled the process's group since the group exists; None if unknown."""
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
    """Processes that the kernel has killed for lack of memory, in this group plus on the machine; None if unknown.

    The machine's counter includes all groups; in a container it may be missing, and only the own group's is counted.
    """
    counts = []
    for file in (*(f / "memory.events" for f in _folders("memory", root, membership)), vmstat):
        for line in (_read(file) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill" and value.isdecimal():
                counts.append(int(value))
    return sum(counts) if counts else None


def _folders(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Folders of the process's groups in either version, its own group first and the root last."""
    for line in (_read(membership) or "").splitlines():
        _, names, path = line.split(":", 2)
        if names == "":
            base = root
        elif controller in names.split(","):
            base = next((b for b in (root / names, root / controller) if b.is_dir()), root / names)
        else:
            continue
        # In a container the path can be that of the host, which does not exist here; the mount is the group then.
        relative = Path(path.lstrip("/"))
        yield from (folder for folder in (base / relative, *(base / p for p in relative.parents)) if folder.is_dir())


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
