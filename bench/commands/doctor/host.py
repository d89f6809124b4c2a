"""The host: clock of the processor, other work, limits on CPU and memory, swap, threads.

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
# With these the governor "powersave" still follows the load; with others it holds the lowest clock.
_SCALING_ITSELF = ("intel_pstate", "amd-pstate-epp", "amd_pstate_epp")
SHARE_WRONG = 0.5
LOAD_WARNING, LOAD_WRONG = 0.5, 1.0
# A cell of the default preset takes 0.4 to 0.7 GiB.
MEMORY_WRONG, MEMORY_WARNING = GIB, 2 * GIB
SWAP_WARNING = 64 * 2**20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")

_LIST_PROCESSES = "ps -eo pid,user,pcpu,etime,comm --sort=-pcpu | head"


@dataclass(frozen=True)
class Cores:
    """What this process may compute on.

    Attributes:
        usable: CPUs that the scheduler lets it use; None if the system does not tell.
        physical: cores of the machine, hyperthreads not counted; None if unknown.
        limit: how many CPUs' worth of time its control groups give it; None without a limit, or if unknown.
        limit_known: whether control groups could be read at all.
    """

    usable: int | None
    physical: int | None
    limit: float | None
    limit_known: bool

    @property
    def whole(self) -> int | None:
        """Threads that can run at a time."""
        if self.usable is None:
            return None
        return self.usable if self.limit is None else max(1, min(self.usable, math.floor(self.limit)))


def read_cores(
    physical: int | None, root: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP, usable: int | None = None
) -> Cores:
    """Reads the limits; ``usable`` is the scheduler's answer if None."""
    if usable is None and hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    return Cores(usable, physical, cgroup.cpu_limit(root, membership), groups_known(root, membership))


def groups_known(root: Path = cgroup.ROOT, membership: Path = cgroup.MEMBERSHIP) -> bool:
    """Whether "no limit" is what the control groups say and not what nobody could read."""
    return membership.is_file() and root.is_dir() and any(root.iterdir())


def governor(folder: Path = CPU_FOLDER) -> Finding:
    """What the kernel does with the processor's clock."""
    check, effect = "cpu governor", "the clock follows the load with a delay: short steps are slow and vary"
    mend = "sudo cpupower frequency-set -g performance"
    found = Counter(
        (_read(path), _read(path.with_name("scaling_driver")))
        for path in sorted(folder.glob("cpu[0-9]*/cpufreq/scaling_governor"))
    )
    if not found:
        why = "the system does not tell; in a virtual machine the host decides"
        return unknown(check, why, effect, "cpupower frequency-info")
    what = ", ".join(f"{name} ({driver}) on {count}" for (name, driver), count in found.items()) + " CPUs"
    if all(name == "performance" for name, _ in found):
        return ok(check, what)
    if any(name == "powersave" and driver not in _SCALING_ITSELF for name, driver in found):
        return Finding(check, "wrong", what, "the processor is held at its lowest clock: all times are too long", mend)
    return Finding(check, "warning", what, effect, mend)


def load(others_share: float | None, average: float | None, cpus: int | None) -> Finding:
    """Other work on the machine.

    Args:
        others_share: part of the machine's CPU time that others took just now.
        average: load average of the last minute.
        cpus: of the machine.
    """
    check = "cpu load"
    effect = "steps take longer, and by more than the others' share: threads wait for the one that was put off its core"
    parts, level = [], 0
    if others_share is not None:
        parts.append(f"other processes take {others_share:.0%} of the CPU time")
        level = max(level, (others_share > OTHERS_LIMIT) + (others_share > SHARE_WRONG))
    if average is not None and cpus:
        parts.append(f"load average {average:.1f} on {cpus} CPUs")
        level = max(level, (average > LOAD_WARNING * cpus) + (average > LOAD_WRONG * cpus))
    if not parts:
        return unknown(check, "the system does not tell", effect, "uptime")
    what = ", ".join(parts)
    if level == 0:
        return ok(check, what)
    return Finding(check, "wrong" if level == 2 else "warning", what, effect, _LIST_PROCESSES)


def cpu_limit(cores: Cores, throttled: float | None) -> Finding:
    """A quota on CPU time.

    Args:
        throttled: seconds for which a quota has held this process's group back since the group was made.
    """
    check, effect = "cpu limit", "when the quota is used up everything stands still until the next period"
    mend = f"export OMP_NUM_THREADS={cores.whole or 1}"
    if not cores.limit_known:
        return unknown(check, "control groups cannot be read", effect, "cat /proc/self/cgroup")
    if cores.limit is None:
        usable = "" if cores.usable is None else f"; {cores.usable} CPUs usable"
        return ok(check, f"no quota{usable}")
    past = f", held back for {throttled:.1f} s so far" if throttled else ""
    what = f"{cores.limit:g} CPUs' worth of time on {cores.usable or 'unknown'} CPUs{past}"
    if cores.limit < 1:
        return Finding(check, "wrong", what, f"{effect}, whatever the number of threads", mend)
    if cores.usable is not None and cores.limit >= cores.usable:
        return ok(check, what)
    return Finding(check, "warning", what, effect, mend)


def memory(available: int | None, need: int) -> Finding:
    """Free memory of the host.

    Args:
        available: bytes that can be had without swapping, the control groups' limit considered.
        need: bytes of the matrix's arrays on disk that are read in every step.
    """
    check = "memory"
    mend = "ps -eo pid,user,rss,comm --sort=-rss | head"
    if available is None:
        return unknown(check, "the system does not tell", "cells may be killed for memory", "free -h")
    what = f"{gib(available)} available"
    if available < MEMORY_WRONG:
        return Finding(check, "wrong", what, "cells are killed for memory (status oom-host) or swap", mend)
    if available < MEMORY_WARNING:
        return Finding(check, "warning", what, "cells with large backbones may be killed for memory", mend)
    if need > available:
        effect = "they do not stay in memory: steps that read them wait for the disk, which is booked under data"
        return Finding(check, "warning", f"{what}, cache and pictures take {gib(need)}", effect, mend)
    return ok(check, what)


def memory_limit(limit: int | None, known: bool, total: int | None) -> Finding:
    """A limit on memory by control groups."""
    check, effect = "memory limit", "a cell that goes beyond it is killed (status oom-host)"
    if not known:
        return unknown(check, "control groups cannot be read", effect, "cat /proc/self/cgroup")
    if limit is None or (total is not None and limit >= total):
        return ok(check, "none below the machine's memory")
    of = "" if total is None else f" of the machine's {gib(total)}"
    level: Level = "wrong" if limit < MEMORY_WARNING else "warning"
    return Finding(check, level, f"{gib(limit)}{of}", effect, "ulimit -a; cat /proc/self/cgroup")


def swap(total: int | None, used: int | None, watched: MachineReading) -> Finding:
    """Swap in use, and swapping while the doctor watched."""
    check, effect = "swap", "what was swapped out is read back in the middle of a step"
    if total is None or used is None:
        return unknown(check, "the system does not tell", effect, "cat /proc/swaps")
    if total == 0:
        return ok(check, "none")
    what = f"{gib(used)} of {gib(total)} used"
    mend = "sudo swapoff -a"
    if watched.swapped_in or watched.swapped_out:
        moved = (watched.swapped_in or 0) + (watched.swapped_out or 0)
        effect = "the machine is short of memory now: times are the disk's"
        return Finding(check, "wrong", f"{what}, {gib(moved)} moved in {watched.seconds:.0f} s", effect, mend)
    if used > SWAP_WARNING:
        return Finding(check, "warning", what, effect, mend)
    if watched.swapped_in is None or watched.swapped_out is None:
        return unknown(check, f"{what}; whether it is in use now the system does not tell", effect, "vmstat 1 5")
    return ok(check, what)


def threads(count: int, cores: Cores, variables: Mapping[str, str]) -> Finding:
    """Threads that torch computes with against the cores there are.

    Args:
        count: ``torch.get_num_threads()``.
    """
    check = "threads"
    said = ", ".join(f"{name}={variables[name]}" for name in THREAD_VARIABLES if name in variables)
    what = f"torch uses {count} threads ({said or 'nothing set'})"
    if cores.whole is None:
        effect = "too many threads wait for each other, too few leave cores idle"
        return unknown(check, f"{what}; the system does not tell the usable CPUs", effect, "nproc")
    what += f", {cores.whole} can run at a time"
    mend = f"export OMP_NUM_THREADS={cores.whole}"
    if count > cores.whole:
        effect = "threads wait for each other at the end of every operation: steps take many times as long"
        return Finding(check, "wrong", what, effect, mend)
    if count < min(cores.whole, cores.physical or cores.whole):
        effect = "times on the CPU are longer than this machine needs; on a GPU it is the preparation of batches"
        return Finding(check, "warning", what, effect, mend)
    return ok(check, what)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return "unknown"
