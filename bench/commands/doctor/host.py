"""Checks of the host: CPU clock, other processes, limits on CPU and memory, swap, threads.

Sources: Linux kernel documentation (admin-guide/pm/cpufreq, admin-guide/cgroup-v1 and cgroup-v2, proc).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.commands.doctor.finding import GIB, Finding, Level, gib, ok, unknown
from bench.measure import cgroup
from bench.measure.host import OTHERS_LIMIT, MachineReading

CPU_FOLDER = Path("/sys/devices/system/cpu")
# With these drivers the governor "powersave" still follows the load; with others it holds the lowest clock.
_FOLLOWS_LOAD = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
SHARE_WRONG = 0.5
LOAD_WARNING, LOAD_WRONG = 0.5, 1.0
# A cell of the default preset takes 0.4 to 0.7 GiB.
MEMORY_WRONG, MEMORY_WARNING = GIB, 2 * GIB
SWAP_WARNING = 64 * 2**20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_LIST_PROCESSES = "ps -eo pid,user,pcpu,etime,comm --sort=-pcpu | head"


@dataclass(frozen=True)
class Cores:
    """CPUs that this process may use.

    Attributes:
        usable: CPUs in the affinity mask of the process; None if unknown.
        physical: cores of the machine, hyperthreads not counted; None if unknown.
        limit: quota of the control groups in CPUs; None without a quota, or if unknown.
        limit_known: True if the control groups could be read.
    """

    usable: int | None
    physical: int | None
    limit: float | None
    limit_known: bool

    @property
    def usable_threads(self) -> int | None:
        """Number of threads that can run at the same time; None if unknown."""
        if self.usable is None:
            return None
        return self.usable if self.limit is None else max(1, min(self.usable, math.floor(self.limit)))


def read_cores(
    physical: int | None, root: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP, usable: int | None = None
) -> Cores:
    """Reads affinity and quota of this process.

    Args:
        physical: cores of the machine, hyperthreads not counted; None if unknown.
        root, membership: mount of the control groups, and the file with the groups of this process.
        usable: CPUs that the process may use; None to read its affinity mask.
    """
    if usable is None and hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    return Cores(usable, physical, cgroup.cpu_limit(root, membership), control_groups_readable(root, membership))


def control_groups_readable(root: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP) -> bool:
    """True if the control groups can be read, so that no limit in them means that there is none."""
    return membership.is_file() and root.is_dir() and any(root.iterdir())


def governor(folder: Path = CPU_FOLDER) -> Finding:
    """The kernel's policy for the CPU clock."""
    check, effect = "cpu governor", "the clock follows the load with a delay: short steps are slow and vary"
    mend = "sudo cpupower frequency-set -g performance"
    governors = Counter(
        (_read(path), _read(path.with_name("scaling_driver")))
        for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    )
    if not governors:
        why = "the system does not report it; for a virtual machine the host decides"
        return unknown(check, why, effect, "cpupower frequency-info")
    what = ", ".join(f"{name} ({driver}) on {count}" for (name, driver), count in governors.items()) + " CPUs"
    if all(name == "performance" for name, _ in governors):
        return ok(check, what)
    if any(name == "powersave" and driver not in _FOLLOWS_LOAD for name, driver in governors):
        return Finding(check, "wrong", what, "the CPU is held at its lowest clock: all times are too long", mend)
    return Finding(check, "warning", what, effect, mend)


def load(others_share: float | None, average: float | None, cpus: int | None) -> Finding:
    """Load on the CPUs by other processes.

    Args:
        others_share: share of the machine's CPU time that other processes took while the doctor watched.
        average: load average of the last minute.
        cpus: number of CPUs of the machine.
    """
    check = "cpu load"
    effect = "steps take longer, by more than the share of the others: all threads wait for the one that lost its core"
    parts, level = [], 0
    if others_share is not None:
        parts.append(f"other processes take {others_share:.0%} of the CPU time")
        level = max(level, (others_share > OTHERS_LIMIT) + (others_share > SHARE_WRONG))
    if average is not None and cpus:
        parts.append(f"load average {average:.1f} on {cpus} CPUs")
        level = max(level, (average > LOAD_WARNING * cpus) + (average > LOAD_WRONG * cpus))
    if not parts:
        return unknown(check, "the system does not report it", effect, "uptime")
    what = ", ".join(parts)
    if level == 0:
        return ok(check, what)
    return Finding(check, "wrong" if level == 2 else "warning", what, effect, _LIST_PROCESSES)


def cpu_limit(cores: Cores, throttled: float | None) -> Finding:
    """Quota on CPU time.

    Args:
        throttled: seconds for which a quota has stopped the process's control group since the group was created.
    """
    check, effect = "cpu limit", "all threads stop when the quota is used up, until its next period"
    mend = f"export OMP_NUM_THREADS={cores.usable_threads or 1}"
    if not cores.limit_known:
        return unknown(check, "control groups cannot be read", effect, "cat /proc/self/cgroup")
    if cores.limit is None:
        usable = "" if cores.usable is None else f"; {cores.usable} CPUs usable"
        return ok(check, f"no quota{usable}")
    past = f", stopped for {throttled:.1f} s so far" if throttled else ""
    what = f"{cores.limit:g} CPUs' worth of time on {cores.usable or 'unknown'} CPUs{past}"
    if cores.limit < 1:
        return Finding(check, "wrong", what, f"{effect}, whatever the number of threads", mend)
    if cores.usable is not None and cores.limit >= cores.usable:
        return ok(check, what)
    return Finding(check, "warning", what, effect, mend)


def memory(available: int | None, need: int) -> Finding:
    """Available memory of the host.

    Args:
        available: bytes available without swapping, at most the limit of the control groups; None if unknown.
        need: bytes of the matrix's arrays on disk, which steps read.
    """
    check = "memory"
    mend = "ps -eo pid,user,rss,comm --sort=-rss | head"
    if available is None:
        return unknown(check, "the system does not report it", "cells may be killed for memory", "free -h")
    what = f"{gib(available)} available"
    if available < MEMORY_WRONG:
        return Finding(check, "wrong", what, "cells are killed for memory (status oom-host) or swap", mend)
    if available < MEMORY_WARNING:
        return Finding(check, "warning", what, "cells with large backbones may be killed for memory", mend)
    if need > available:
        effect = "they do not stay in memory: steps that read them wait for the disk, which counts as data time"
        return Finding(check, "warning", f"{what}, cache and pictures take {gib(need)}", effect, mend)
    return ok(check, what)


def memory_limit(limit: int | None, known: bool, total: int | None) -> Finding:
    """Memory limit of the control groups.

    Args:
        known: True if the control groups could be read.
        total: memory of the machine; None if unknown.
    """
    check, effect = "memory limit", "a cell that exceeds it is killed (status oom-host)"
    if not known:
        return unknown(check, "control groups cannot be read", effect, "cat /proc/self/cgroup")
    if limit is None or (total is not None and limit >= total):
        return ok(check, "none below the machine's memory")
    of = "" if total is None else f" of the machine's {gib(total)}"
    level: Level = "wrong" if limit < MEMORY_WARNING else "warning"
    return Finding(check, level, f"{gib(limit)}{of}", effect, "ulimit -a; cat /proc/self/cgroup")


def swap(total: int | None, used: int | None, watched: MachineReading) -> Finding:
    """Swap in use, and swapping while the doctor watched."""
    check, effect = "swap", "memory that was swapped out is read back in the middle of a step"
    if total is None or used is None:
        return unknown(check, "the system does not report it", effect, "cat /proc/swaps")
    if total == 0:
        return ok(check, "none")
    what = f"{gib(used)} of {gib(total)} used"
    mend = "sudo swapoff -a"
    if watched.swapped_in or watched.swapped_out:
        moved = (watched.swapped_in or 0) + (watched.swapped_out or 0)
        effect = "the machine is short of memory now: steps wait for the disk"
        return Finding(check, "wrong", f"{what}, {gib(moved)} moved in {watched.seconds:.0f} s", effect, mend)
    if used > SWAP_WARNING:
        return Finding(check, "warning", what, effect, mend)
    if watched.swapped_in is None or watched.swapped_out is None:
        return unknown(check, f"{what}; the system does not report whether it swaps now", effect, "vmstat 1 5")
    return ok(check, what)


def threads(count: int, cores: Cores, variables: Mapping[str, str]) -> Finding:
    """Number of threads of torch against the usable cores.

    Args:
        count: ``torch.get_num_threads()``.
    """
    check = "threads"
    settings = ", ".join(f"{name}={variables[name]}" for name in THREAD_VARIABLES if name in variables)
    what = f"torch uses {count} threads ({settings or 'nothing set'})"
    usable = cores.usable_threads
    if usable is None:
        effect = "too many threads wait for each other, too few leave cores idle"
        return unknown(check, f"{what}; the system does not report the usable CPUs", effect, "nproc")
    what += f", {usable} can run at a time"
    mend = f"export OMP_NUM_THREADS={usable}"
    if count > usable:
        effect = "threads wait for each other at the end of every operation: steps take many times as long"
        return Finding(check, "wrong", what, effect, mend)
    if count < min(usable, cores.physical or usable):
        effect = "cores stay idle: training on the CPU, or the preparation of batches for a GPU, takes longer"
        return Finding(check, "warning", what, effect, mend)
    return ok(check, what)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "unknown"
