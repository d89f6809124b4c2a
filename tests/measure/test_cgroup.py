"""Limits read from made-up cgroup trees of both versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.measure.cgroup import cpu_limit, memory_limit, throttled_seconds
from tests.measure.cgroup_tree import tree


def test_version_2_takes_the_tightest_level(tmp_path: Path) -> None:
    where = tree(
        tmp_path,
        "0::/job/step\n",
        {
            "job/cpu.max": "150000 100000\n",
            "job/memory.max": "4096\n",
            "job/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 2500000\n",
            "job/step/cpu.max": "max 100000\n",
            "job/step/memory.max": "8192\n",
            "job/step/cpu.stat": "throttled_usec 0\n",
        },
    )
    assert (cpu_limit(*where), memory_limit(*where), throttled_seconds(*where)) == (1.5, 4096, 2.5)


@pytest.mark.parametrize("controller", ["cpu", "cpu,cpuacct"])
def test_version_1(tmp_path: Path, controller: str) -> None:
    where = tree(
        tmp_path,
        f"4:memory:/box\n2:{controller}:/box\n0::/\n",
        {
            f"{controller}/box/cpu.cfs_quota_us": "50000",
            f"{controller}/box/cpu.cfs_period_us": "100000",
            f"{controller}/box/cpu.stat": "nr_throttled 1\nthrottled_time 1500000000\n",
            f"{controller}/cpu.cfs_quota_us": "-1",
            f"{controller}/cpu.cfs_period_us": "100000",
            "memory/box/memory.limit_in_bytes": "1048576",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert (cpu_limit(*where), memory_limit(*where), throttled_seconds(*where)) == (0.5, 1048576, 1.5)


def test_a_path_of_the_host_seen_from_a_container_means_the_mount(tmp_path: Path) -> None:
    where = tree(tmp_path, "0::/docker/abc\n", {"cpu.max": "200000 100000", "memory.max": "77"})
    assert (cpu_limit(*where), memory_limit(*where)) == (2.0, 77)


def test_no_limits_and_no_cgroups_are_unknown(tmp_path: Path) -> None:
    where = tree(tmp_path, "0::/\n", {"cpu.max": "max 100000", "memory.max": "max"})
    assert (cpu_limit(*where), memory_limit(*where), throttled_seconds(*where)) == (None, None, None)
    nowhere = (tmp_path / "no", tmp_path / "none")
    assert (cpu_limit(*nowhere), memory_limit(*nowhere), throttled_seconds(*nowhere)) == (None, None, None)
