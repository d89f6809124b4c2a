"""CPU cores for cells that run at the same time: equal shares of whole cores, and a thread per core.

A cell on a GPU whose steps are short is as fast as the core that launches its kernels, so cells that share cores slow
each other down. Hyperthreads of a core stay together, and cores of a package too as far as possible.

Source: Linux kernel documentation (admin-guide/cputopology).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

# CPUs that a cell's process pins itself to, as numbers with commas between.
CPUS = "IISAN_BENCH_CPUS"
THREADS = "OMP_NUM_THREADS"
TOPOLOGY = Path("/sys/devices/system/cpu")
STARTED_WITH = Path("/proc/self/environ")
Core = tuple[int, ...]


def cores(usable: frozenset[int] | None = None, topology: Path = TOPOLOGY) -> list[Core]:
    """Cores that this process may use, each as the numbers of its CPUs (hyperthreads); empty if the system hides them.

    Args:
        usable: CPUs that may be used; None asks the scheduler.
        topology: folder with a folder per CPU.
    """
    if usable is None:
        if not hasattr(os, "sched_getaffinity"):
            return []
        usable = frozenset(os.sched_getaffinity(0))
    found: dict[tuple[int, int], list[int]] = {}
    for cpu in sorted(usable):
        package, core = (
            _number(topology / f"cpu{cpu}" / "topology" / f"{name}_id") for name in ("physical_package", "core")
        )
        # Without a topology every CPU counts as a core.
        key = (0, cpu) if package is None or core is None else (package, core)
        found.setdefault(key, []).append(cpu)
    return [tuple(found[key]) for key in sorted(found)]


def shares(found: Sequence[Core], parts: int) -> list[Sequence[Core]]:
    """Equal shares of cores, so that no cell has more than another; empty if there are fewer cores than parts."""
    size = len(found) // parts
    return [found[part * size : (part + 1) * size] for part in range(parts)] if size else []


def variables(share: Sequence[Core], environment: Mapping[str, str], pinned: bool = True) -> dict[str, str]:
    """Environment variables of a cell that runs on a share of the cores.

    Args:
        share: its cores.
        environment: if it says how many threads to use, that holds.
        pinned: whether the cell may use these cores only.
    """
    own = {CPUS: ",".join(str(cpu) for core in share for cpu in core)} if pinned else {}
    return own | {THREADS: environment.get(THREADS) or str(len(share))}


def pin() -> None:
    """Binds this process, and what it starts from now on, to the CPUs that its launcher chose."""
    chosen = os.environ.pop(CPUS, "")
    if chosen:
        os.sched_setaffinity(0, {int(cpu) for cpu in chosen.split(",")})


def started_with(path: Path = STARTED_WITH) -> dict[str, str] | None:
    """Environment that this process was started with, whatever was set in it since; None if it cannot be read."""
    try:
        entries = path.read_bytes().split(b"\0")
    except OSError:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
