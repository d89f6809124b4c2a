"""Resident memory against a big array, the machine's disturbances against sums by hand and a real busy child."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.measure.host import MachineWatch, Snapshot, compare, peak_rss_bytes, take_snapshot

QUIET = Snapshot(at=100.0, capacity=50.0, busy=20.0, own=5.0, swapped_in=0, swapped_out=0, throttled=0.0)


def test_the_peak_of_resident_memory_stays_when_the_memory_is_gone() -> None:
    program = (
        "from bench.measure.host import peak_rss_bytes as peak\n"
        "before = peak(); block = b'x' * 60_000_000; during = peak(); del block\n"
        "assert 55e6 < during - before < 90e6, (before, during)\n"
        "assert abs(peak() - during) < 2e6\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_it_is_not_inherited_from_a_big_parent() -> None:
    block = bytearray(b"x") * 80_000_000
    program = "from bench.measure.host import peak_rss_bytes as peak; print(peak())"
    child = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    own = peak_rss_bytes()
    assert own is not None
    assert int(child.stdout) < len(block) < own


def test_a_system_that_does_not_tell_gives_none(tmp_path: Path) -> None:
    assert peak_rss_bytes(tmp_path / "absent") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t 5 kB\n")
    assert peak_rss_bytes(tmp_path / "status") is None
    (tmp_path / "status").write_text("Name:\tpython\nVmHWM:\t    5120 kB\nVmRSS:\t 5 kB\n")
    assert peak_rss_bytes(tmp_path / "status") == 5 * 2**20


def test_what_others_took_is_what_was_busy_less_our_own() -> None:
    after = replace(QUIET, at=110.0, capacity=70.0, busy=38.0, own=17.0)
    reading = compare(QUIET, after)
    assert reading.others_share == pytest.approx((18 - 12) / 20)
    (warning,) = reading.warnings
    assert "30% of the machine's CPU time" in warning
    assert compare(QUIET, replace(after, busy=33.0)).warnings == ()
    # Ticks are rounded down here and up there, so that the difference can come out below nothing.
    assert compare(QUIET, replace(after, busy=30.0)).others_share == 0


def test_a_share_of_a_moment_or_of_no_ticks_is_unknown() -> None:
    assert compare(QUIET, replace(QUIET, at=100.5, capacity=51.0, busy=21.0)).others_share is None
    assert compare(QUIET, replace(QUIET, at=110.0)).others_share is None


def test_swapping_and_a_quota_are_named() -> None:
    after = replace(QUIET, at=110.0, capacity=70.0, busy=21.0, swapped_in=3 << 20, throttled=0.5)
    reading = compare(QUIET, after)
    assert (reading.swapped_in, reading.swapped_out, reading.throttled_seconds) == (3 << 20, 0, 0.5)
    swap, quota = reading.warnings
    assert "3.0 MiB in, 0.0 MiB out" in swap
    assert "0.5 s of 10.0 s" in quota
    assert compare(QUIET, replace(after, swapped_in=0, throttled=0.05)).warnings == ()


def test_what_the_system_does_not_tell_is_unknown_and_no_warning() -> None:
    blind = replace(QUIET, swapped_in=None, swapped_out=None, throttled=None)
    reading = compare(blind, replace(blind, at=110.0, capacity=70.0, busy=21.0))
    assert (reading.swapped_in, reading.swapped_out, reading.throttled_seconds) == (None, None, None)
    assert reading.warnings == ()


def test_a_real_period_counts_a_child_as_our_own(tmp_path: Path) -> None:
    before = take_snapshot()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    after = take_snapshot()
    assert after.own - before.own >= 0.45
    assert after.capacity > before.capacity
    assert take_snapshot(tmp_path / "absent").swapped_in is None


def test_the_watch_reads_at_the_end_also_of_a_failure() -> None:
    watch = MachineWatch()
    assert watch.warnings == ()

    def fail() -> None:
        with watch:
            time.sleep(0.05)
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        fail()
    assert watch.reading is not None
    assert 0.05 <= watch.reading.seconds < 5
    assert watch.warnings == watch.reading.warnings
