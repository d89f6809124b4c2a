"""Checkpoint folders on disk: written atomically and verified by checksums before they are read.

    cells/<cell-id>/checkpoint/
      step-<n>/{tensors.safetensors, state.json, SHA256SUMS}
      steps.json

``bench.cell.checkpoint`` defines the contents of the files. This module imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.utils.files import SUMS, flush_to_disk, sum_line

_NAME = re.compile(r"step-(\d{1,12})")
_COUNT_BYTES = 256


class CheckpointError(Exception):
    """A checkpoint is damaged or belongs to another cell, machine or version of torch; the message names its folder."""


def checkpoint_folder(cell_folder: Path) -> Path:
    """Folder of a cell's checkpoints."""
    return cell_folder / "checkpoint"


def remove_checkpoints(cell_folder: Path) -> None:
    """Remove all checkpoints of a cell that has a record and will not be resumed."""
    shutil.rmtree(checkpoint_folder(cell_folder), ignore_errors=True)


def write_checkpoint(parent: Path, step: int, files: Mapping[str, Callable[[Path], object]]) -> Path:
    """Write a checkpoint and then remove older ones; a crash at any moment leaves the old or the new one intact.

    Args:
        parent: the cell's checkpoint folder; created if it does not exist.
        step: number of steps done, which names the checkpoint.
        files: file name -> function that writes the file to the path that it is given.

    Returns:
        Folder of the checkpoint.

    Raises:
        OSError: the checkpoint could not be written; older ones are kept.
    """
    parent.mkdir(parents=True, exist_ok=True)
    target, partial = parent / f"step-{step:09d}", parent / f".{uuid.uuid4().hex}.tmp"
    partial.mkdir()
    try:
        for name, write in files.items():
            write(partial / name)
            flush_to_disk(partial / name)
        (partial / SUMS).write_text("".join(_sums(partial, sorted(files))), encoding="utf-8")
        flush_to_disk(partial / SUMS)
        flush_to_disk(partial)
        shutil.rmtree(target, ignore_errors=True)  # a damaged checkpoint of the same step
        os.rename(partial, target)
        flush_to_disk(parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for other in parent.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def list_checkpoints(parent: Path) -> list[Path]:
    """List the checkpoints in a folder, newest first, without verifying them."""
    numbered = [(int(match[1]), path) for path in _entries(parent) if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(numbered, reverse=True)]


def verify_checkpoint(folder: Path) -> None:
    """Verify the checksum of every file of a checkpoint.

    Raises:
        CheckpointError: a file is missing, added or changed; the message names it.
    """
    try:
        recorded = (folder / SUMS).read_bytes()
        lines = _sums(folder, sorted(path.name for path in folder.iterdir() if path.name != SUMS))
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error
    if recorded != "".join(lines).encode():
        different = {*recorded.decode(errors="replace").splitlines(True)} ^ {*lines}
        names = sorted({line.strip().partition("  ")[2] for line in different})
        raise CheckpointError(f"checkpoint {folder}: {', '.join(names)}: checksum mismatch")


@dataclass(frozen=True)
class ResumeCount:
    """Number of resumes and steps of a cell, written after every step so that a kill loses none.

    Attributes:
        times: number of times the cell was resumed.
        lost: steps done after the checkpoint that was resumed from, summed over all resumes; None is unknown.
        step: steps done since the start of training.
    """

    times: int = 0
    lost: int | None = 0
    step: int = 0


class StepCounter:
    """File with a :class:`ResumeCount`; it survives a kill of the process, but not always a crash of the machine.

    A write is one short copy into the kernel, cheap enough for every step.
    """

    def __init__(self, parent: Path):
        parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(parent / "steps.json", os.O_RDWR | os.O_CREAT, 0o666)

    def read(self) -> ResumeCount | None:
        """Read the last count; None if there is none or the file is damaged."""
        try:
            count = ResumeCount(**json.loads(os.pread(self._file, _COUNT_BYTES, 0)))
        except (ValueError, TypeError, OSError):
            return None
        numbers = (count.times, 0 if count.lost is None else count.lost, count.step)
        return count if all(type(number) is int and number >= 0 for number in numbers) else None

    def write(self, count: ResumeCount) -> None:
        """Overwrite the count in the file."""
        os.pwrite(self._file, json.dumps(asdict(count)).encode().ljust(_COUNT_BYTES), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _entries(parent: Path) -> Iterator[Path]:
    try:
        yield from parent.iterdir()
    except (FileNotFoundError, NotADirectoryError):
        return


def _sums(folder: Path, names: Iterable[str]) -> list[str]:
    return [f"{sum_line(folder, name)}\n" for name in names]
