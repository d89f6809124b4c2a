"""Processor, limits, memory, swap and threads: every check in each of its levels, from made-up system trees."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.commands.doctor import host
from bench.commands.doctor.finding import GIB
from bench.commands.doctor.host import Cores, read_cores
from bench.measure.host import MachineReading
from tests.commands.doctor.levels import level_of
from tests.measure.cgroup_tree import tree

QUIET = MachineReading(1.0, 0.0, 0, 0, 0.0, ())
FOUR = Cores(usable=4, physical=2, limit=None, limit_known=True)


@pytest.mark.parametrize(
    ("cpus", "level"),
    [
        ([("performance", "intel_pstate")] * 2, "ok"),
        ([("performance", "intel_pstate"), ("powersave", "intel_pstate")], "warning"),
        ([("schedutil", "acpi-cpufreq")] * 2, "warning"),
        ([("powersave", "acpi-cpufreq")] * 2, "wrong"),
        ([], "unknown"),
    ],
)
def test_governor(cpus: list[tuple[str, str]], level: str, tmp_path: Path) -> None:
    (tmp_path / "cpufreq").mkdir()  # the folder of policies is not a CPU's
    for number, (name, driver) in enumerate(cpus):
        folder = tmp_path / f"cpu{number}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_governor").write_text(f"{name}\n")
        (folder / "scaling_driver").write_text(f"{driver}\n")
    found = host.governor(tmp_path)
    assert level_of(found) == level
    for name, driver in cpus:
        assert f"{name} ({driver}) on {cpus.count((name, driver))}" in found.finding


@pytest.mark.parametrize(
    ("share", "average", "cpus", "level"),
    [
        (0.05, 0.4, 4, "ok"),
        (0.2, 0.4, 4, "warning"),
        (0.05, 2.5, 4, "warning"),
        (0.6, 0.4, 4, "wrong"),
        (0.05, 4.5, 4, "wrong"),
        (None, 0.4, 4, "ok"),
        (None, 9.0, None, "unknown"),
        (None, None, 4, "unknown"),
    ],
)
def test_load(share: float | None, average: float | None, cpus: int | None, level: str) -> None:
    assert level_of(host.load(share, average, cpus)) == level


@pytest.mark.parametrize(
    ("cpu_max", "level", "said"),
    [
        ("max 100000", "ok", "no quota; 4 CPUs usable"),
        ("400000 100000", "ok", "4 CPUs' worth of time on 4 CPUs, stopped for 2.5 s so far"),
        ("150000 100000", "warning", "1.5 CPUs' worth of time on 4 CPUs, stopped for 2.5 s so far"),
        ("50000 100000", "wrong", "0.5 CPUs' worth"),
    ],
)
def test_cpu_limit(cpu_max: str, level: str, said: str, tmp_path: Path) -> None:
    files = {"job/cpu.max": cpu_max, "job/cpu.stat": "throttled_usec 2500000\n"}
    where = tree(tmp_path, "0::/job\n", files)
    found = host.cpu_limit(read_cores(2, *where, usable=4), host.cgroup.throttled_seconds(*where))
    assert (level_of(found), said in found.finding) == (level, True), found
    if level != "ok":
        assert found.mend == "export OMP_NUM_THREADS=1"


def test_limits_that_nobody_can_read_are_unknown(tmp_path: Path) -> None:
    nowhere = (tmp_path / "no", tmp_path / "none")
    cores = read_cores(2, *nowhere, usable=4)
    assert level_of(host.cpu_limit(cores, None)) == "unknown"
    assert level_of(host.memory_limit(None, host.control_groups_readable(*nowhere), 8 * GIB)) == "unknown"
    (tmp_path / "no").mkdir()
    (tmp_path / "none").write_text("0::/\n")
    assert not host.control_groups_readable(*nowhere)  # a mount that is there and empty tells nothing either
    (tmp_path / "no" / "cgroup.procs").write_text("")
    assert host.control_groups_readable(*nowhere)


@pytest.mark.parametrize(
    ("available", "need", "level"),
    [
        (8 * GIB, 0, "ok"),
        (8 * GIB, 9 * GIB, "warning"),
        (GIB + 1, 0, "warning"),
        (GIB - 1, 0, "wrong"),
        (None, 0, "unknown"),
    ],
)
def test_memory(available: int | None, need: int, level: str) -> None:
    assert level_of(host.memory(available, need)) == level


@pytest.mark.parametrize(
    ("limit", "level"),
    [(None, "ok"), (16 * GIB, "ok"), (4 * GIB, "warning"), (GIB, "wrong")],
)
def test_memory_limit(limit: int | None, level: str) -> None:
    found = host.memory_limit(limit, True, 16 * GIB)
    assert level_of(found) == level
    assert level == "ok" or "of the machine's 16.0 GiB" in found.finding


@pytest.mark.parametrize(
    ("total", "used", "watched", "level"),
    [
        (0, 0, QUIET, "ok"),
        (8 * GIB, GIB // 100, QUIET, "ok"),
        (8 * GIB, GIB, QUIET, "warning"),
        (8 * GIB, GIB // 100, replace(QUIET, swapped_in=4096), "wrong"),
        (8 * GIB, GIB // 100, replace(QUIET, swapped_out=4096), "wrong"),
        (8 * GIB, 0, replace(QUIET, swapped_in=None, swapped_out=None), "unknown"),
        (None, None, QUIET, "unknown"),
    ],
)
def test_swap(total: int | None, used: int | None, watched: MachineReading, level: str) -> None:
    assert level_of(host.swap(total, used, watched)) == level


@pytest.mark.parametrize(
    ("count", "cores", "level", "whole"),
    [
        (4, FOUR, "ok", 4),
        (2, FOUR, "ok", 4),  # one thread per core, none on its second half
        (1, FOUR, "warning", 4),
        (5, FOUR, "wrong", 4),
        (4, replace(FOUR, limit=2.5), "wrong", 2),
        (2, replace(FOUR, limit=2.5), "ok", 2),
        (2, replace(FOUR, limit=0.5), "wrong", 1),
        (3, replace(FOUR, physical=None), "warning", 4),
        (4, replace(FOUR, usable=None), "unknown", 0),
    ],
)
def test_threads(count: int, cores: Cores, level: str, whole: int) -> None:
    found = host.threads(count, cores, {"OMP_NUM_THREADS": "7", "PATH": "x"})
    assert level_of(found) == level
    assert "(OMP_NUM_THREADS=7)" in found.finding
    if level in ("warning", "wrong"):
        assert found.mend == f"export OMP_NUM_THREADS={whole}"
    assert "nothing set" in host.threads(count, cores, {}).finding


def test_the_usable_cpus_are_the_schedulers() -> None:
    cores = read_cores(psutil.cpu_count(logical=False))
    assert cores.usable == len(os.sched_getaffinity(0))
