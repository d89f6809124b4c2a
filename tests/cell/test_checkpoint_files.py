"""Checkpoints on disk: whole or not at all, and every damage noticed."""

import json
import subprocess
from pathlib import Path

import pytest

from bench.cell.checkpoint_files import (
    CheckpointError,
    ResumeCount,
    StepCounter,
    checkpoint_folder,
    list_checkpoints,
    remove_checkpoints,
    verify_checkpoint,
    write_checkpoint,
)

FILES = {"a.bin": lambda path: path.write_bytes(bytes(range(200))), "b.json": lambda path: path.write_text("{}")}


def test_the_newest_takes_the_place_of_the_older(tmp_path: Path) -> None:
    parent = checkpoint_folder(tmp_path)
    assert list_checkpoints(parent) == []
    first = write_checkpoint(parent, 9, FILES)
    assert list_checkpoints(parent) == [first]
    second = write_checkpoint(parent, 10, FILES)
    assert [path.name for path in parent.iterdir()] == [second.name]
    verify_checkpoint(second)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=second, check=True)
    remove_checkpoints(tmp_path)
    assert not parent.exists()
    remove_checkpoints(tmp_path)


def test_the_order_is_that_of_the_numbers(tmp_path: Path) -> None:
    for name in ("step-000000009", "step-000000010", "step-2", "step-x", ".1.tmp"):
        (tmp_path / name).mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000000010", "step-000000009", "step-2"]


def test_a_write_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path, 1, FILES)

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_checkpoint(tmp_path, 2, {**FILES, "c": full})
    assert list(tmp_path.iterdir()) == [first]
    verify_checkpoint(first)


def test_what_a_kill_left_half_done_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".dead.tmp").mkdir()
    (tmp_path / ".dead.tmp" / "a.bin").write_bytes(b"half")
    StepCounter(tmp_path).close()
    found = write_checkpoint(tmp_path, 1, FILES)
    assert {path.name for path in tmp_path.iterdir()} == {found.name, "steps.json"}


@pytest.mark.parametrize("name", ["a.bin", "b.json", "SHA256SUMS"])
def test_any_flipped_bit_is_noticed(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, FILES) / name
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (0, 7):
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :])
            with pytest.raises(CheckpointError):
                verify_checkpoint(path.parent)
    path.write_bytes(content)
    verify_checkpoint(path.parent)


@pytest.mark.parametrize("name", ["a.bin", "b.json", "SHA256SUMS"])
def test_files_cut_missing_or_added_are_noticed(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1, FILES)
    (folder / "more").touch()
    with pytest.raises(CheckpointError, match="more"):
        verify_checkpoint(folder)
    (folder / "more").unlink()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError):
        verify_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        verify_checkpoint(folder)


def test_the_counter_outlives_its_process(tmp_path: Path) -> None:
    counter = StepCounter(tmp_path)
    assert counter.read() is None
    for count in (ResumeCount(1, 20, 123_456_789), ResumeCount(2, None, 3)):
        counter.write(count)
        other = StepCounter(tmp_path)
        assert other.read() == count
        other.close()
    counter.close()


@pytest.mark.parametrize(
    "text", ["", "[]", '{"times": -1, "lost": 0, "step": 0}', '{"step": "x"}', '{"stop": 1}', "\0"]
)
def test_a_count_without_sense_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(text)
    assert StepCounter(tmp_path).read() is None


def test_the_counter_is_json(tmp_path: Path) -> None:
    StepCounter(tmp_path).write(ResumeCount(1, None, 7))
    assert json.loads((tmp_path / "steps.json").read_text()) == {"times": 1, "lost": None, "step": 7}
