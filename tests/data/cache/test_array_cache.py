"""Built once, resumed after a kill, never half: with processes really killed and disks really full."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data.cache.array_cache import open_or_build
from bench.data.cache.array_file import Layout
from bench.utils.errors import UserError
from tests.data.cache.build_rows import KEY, LAYOUT, row_values
from tests.data.cache.builds import ROOT, build, finish, lines, names, start, wait_for

FILE, PARTIAL, JOURNAL = f"{KEY}.safetensors", f".{KEY}.partial", f".{KEY}.journal"


BLOCKS = list(range(0, LAYOUT.shape[0], 256))
VALUES = row_values(np.arange(LAYOUT.shape[0]))


def test_a_killed_build_is_gone_on_with_and_gives_the_same_bytes(tmp_path: Path) -> None:
    killed = start(tmp_path / "a" / "hidden", tmp_path / "first", 0.05)
    wait_for(tmp_path / "first", 5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    folder = tmp_path / "a" / "hidden"
    assert names(folder) == [JOURNAL, PARTIAL]
    noted = len((folder / JOURNAL).read_text().splitlines()) - 1
    assert 4 <= noted < len(BLOCKS)
    assert finish(start(folder, tmp_path / "second")).startswith("False")
    assert [int(row) for row in lines(tmp_path / "second")] == BLOCKS[noted:]
    assert names(folder) == [FILE]
    finish(start(tmp_path / "b" / "hidden", tmp_path / "undisturbed"))
    assert [int(row) for row in lines(tmp_path / "undisturbed")] == BLOCKS
    assert (folder / FILE).read_bytes() == (tmp_path / "b" / "hidden" / FILE).read_bytes()


def test_several_at_once_compute_every_block_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "hidden", tmp_path / "log", 0.02) for _ in range(4)]
    said = [finish(process) for process in processes]
    assert [int(row) for row in lines(tmp_path / "log")] == BLOCKS
    assert sorted(line.split()[0] for line in said) == ["False", "True", "True", "True"]
    assert {float(line.split()[1]) for line in said} == {VALUES.sum(dtype=np.float64)}


def test_who_waits_takes_over_from_who_was_killed(tmp_path: Path) -> None:
    first = start(tmp_path / "hidden", tmp_path / "first", 0.1)
    wait_for(tmp_path / "first", 3)
    second = start(tmp_path / "hidden", tmp_path / "second")
    time.sleep(0.5)
    assert not (tmp_path / "second").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    finish(second)
    again = {*lines(tmp_path / "first")} & {*lines(tmp_path / "second")}
    assert again <= {lines(tmp_path / "first")[-1]}
    assert {*lines(tmp_path / "first"), *lines(tmp_path / "second")} == {*map(str, BLOCKS)}


def test_who_waits_tells_how_far_the_other_has_come(tmp_path: Path) -> None:
    process = start(tmp_path / "hidden", tmp_path / "log", 0.1)
    wait_for(tmp_path / "log", 2)
    told: list[tuple[int, int]] = []
    served = open_or_build(
        tmp_path / "hidden", LAYOUT, lambda _: pytest.fail("computed twice"), lambda *done: told.append(done)
    )
    finish(process)
    assert served.reused
    assert len(told) >= 3
    assert told == sorted(set(told))
    assert all(done % 256 == 0 and total == LAYOUT.shape[0] for done, total in told)


def stop_after(folder: Path, n_blocks: int) -> None:
    def compute(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if rows[0] == n_blocks * 256:
            raise KeyboardInterrupt
        return row_values(rows)

    with pytest.raises(KeyboardInterrupt):
        open_or_build(folder, LAYOUT, compute)


@pytest.mark.parametrize(
    ("harm", "left"),
    [("none", 6), ("block", 2), ("cut-line", 5), ("no-journal", 0), ("other-journal", 0), ("cut-file", 3)],
)
def test_what_is_left_of_a_build_is_checked_before_it_is_used(harm: str, left: int, tmp_path: Path) -> None:
    folder = tmp_path / "hidden"
    stop_after(folder, 6)
    partial, journal = folder / PARTIAL, folder / JOURNAL
    if harm == "block":
        raw = bytearray(partial.read_bytes())
        raw[LAYOUT.start_of(3) - 1] ^= 16
        partial.write_bytes(raw)
    elif harm == "cut-line":
        journal.write_bytes(journal.read_bytes()[:-3])
    elif harm == "no-journal":
        journal.unlink()
    elif harm == "other-journal":
        journal.write_bytes(b"00000000" + journal.read_bytes()[8:])
    elif harm == "cut-file":
        os.truncate(partial, LAYOUT.start_of(3) + 5)
    served, computed = build(folder)
    assert computed == BLOCKS[left:]
    assert np.array_equal(served.rows, VALUES)
    assert build(folder)[1] == []
    assert names(folder) == [FILE]


def test_progress_counts_the_rows_that_are_there(tmp_path: Path) -> None:
    stop_after(tmp_path / "hidden", 10)
    told: list[tuple[int, int]] = []
    open_or_build(tmp_path / "hidden", LAYOUT, row_values, lambda *done: told.append(done))
    total = LAYOUT.shape[0]
    assert told == [(2560, total), (2816, total), (3072, total), (total, total)]


@pytest.mark.parametrize("harm", ["bit", "cut", "grown", "empty", "foreign", "other-key", "header", "folder"])
def test_a_damaged_file_is_named_and_never_served(harm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "hidden"
    build(folder)
    path = folder / FILE
    raw = bytearray(path.read_bytes())
    if harm == "bit":
        raw[LAYOUT.start_of(7) + 11] ^= 1
        raw[LAYOUT.start_of(9) + 11] ^= 1
    elif harm == "cut":
        del raw[-1:]
    elif harm == "grown":
        raw += b"\0"
    elif harm == "empty":
        raw.clear()
    elif harm == "header":
        raw[200] ^= 8
    elif harm == "foreign":
        from safetensors.numpy import save

        raw = bytearray(save({"states": VALUES}))
    elif harm == "other-key":
        build(folder, Layout("f" * 32, "states", LAYOUT.shape, "float32"))
        raw = bytearray((folder / f"{'f' * 32}.safetensors").read_bytes())
    path.write_bytes(raw)
    if harm == "folder":
        path.unlink()
        path.mkdir()
        with pytest.raises(UserError, match=f"cache file {path}: "):
            build(folder)
        return
    served, computed = build(folder)
    assert computed == BLOCKS
    assert not served.reused
    assert np.array_equal(served.rows, VALUES)
    assert served.warning.startswith(f"{path}: ")
    assert [record.message for record in caplog.records] == [f"damaged cache file {served.warning}"]
    if harm == "bit":
        assert "block 7 (rows 1792 to 2047) and 1 further blocks" in served.warning
    assert build(folder)[0].warning == ""


def test_who_reads_a_file_keeps_it_when_it_goes(tmp_path: Path) -> None:
    served, _ = build(tmp_path / "hidden")
    (tmp_path / "hidden" / FILE).unlink()
    assert build(tmp_path / "hidden")[1] == BLOCKS
    assert np.array_equal(served.rows, VALUES)


# Full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk that has room for the array, which takes 309 KB, and for little beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip("no small disk to be had: mount is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_computed(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(200_000))
    with pytest.raises(UserError, match=rf"No space left on device: {LAYOUT.file_bytes:,} bytes needed, \d+,\d+ free"):
        open_or_build(small_disk / "hidden", LAYOUT, lambda _: pytest.fail("computed"))
    assert names(small_disk / "hidden") == []


def test_a_disk_that_fills_up_meanwhile_leaves_nothing_half_built(small_disk: Path) -> None:
    def compute(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if rows[0] == 1024:
            with suppress(OSError), (small_disk / "ballast").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return row_values(rows)

    with pytest.raises(UserError, match=rf"No space left on device: {LAYOUT.file_bytes:,} bytes needed, .* free"):
        open_or_build(small_disk / "hidden", LAYOUT, compute)
    assert names(small_disk / "hidden") == []
    (small_disk / "ballast").unlink()
    assert build(small_disk / "hidden")[1] == BLOCKS


def test_a_limit_on_file_sizes_is_told_as_a_full_disk_is(tmp_path: Path) -> None:
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LAYOUT.file_bytes - 1},) * 2)\n"
    code += f"from tests.data.cache.builds import build, Path; build(Path({str(tmp_path / 'hidden')!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert f"File too large: {LAYOUT.file_bytes:,} bytes needed" in done.stderr.splitlines()[-1]
    assert names(tmp_path / "hidden") == []


def test_errors_of_the_computation_pass_through_and_keep_what_is_there(tmp_path: Path) -> None:
    def broken(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        if rows[0] == 512:
            raise FileNotFoundError("no such weights")
        return row_values(rows)

    with pytest.raises(FileNotFoundError, match="no such weights"):
        open_or_build(tmp_path / "hidden", LAYOUT, broken)
    assert build(tmp_path / "hidden")[1] == BLOCKS[2:]
    with pytest.raises(ValueError, match="computed"):
        open_or_build(tmp_path / "other", LAYOUT, lambda rows: row_values(rows)[:, :2])


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cache file .*: Not a directory"):
        build(tmp_path / "file" / "hidden")
