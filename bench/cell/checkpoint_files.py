"""Checkpoints on disk: a folder each, written whole or not at all, checked before it is read. Imports nothing heavy.

    cells/<cell-id>/checkpoint/
      step-<n>/{tensors.safetensors, state.json, SHA256SUMS}
      steps.json

What goes in is ``bench.cell.checkpoint``'s business. Beside ``bench.records.record`` nothing else writes into a run
folder.
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
    """A checkpoint is not what was written, or not of this cell; the message names it."""


def checkpoint_folder(cell_folder: Path) -> Path:
    """Where a cell keeps its checkpoints."""
    return cell_folder / "checkpoint"


def remove_checkpoints(cell_folder: Path) -> None:
    """Removes all of them: nothing will go on from there."""
    shutil.rmtree(checkpoint_folder(cell_folder), ignore_errors=True)


def write_checkpoint(parent: Path, step: int, files: Mapping[str, Callable[[Path], object]]) -> Path:
    """Writes a checkpoint and then removes the older ones; a crash at any moment leaves the old or the new one.

    Args:
        parent: the cell's checkpoint folder; made if there is none.
        step: steps done, which names the checkpoint.
        files: name -> writes the file of that name to the path it is given.

    Returns:
        its folder.

    Raises:
        OSError: it could not be written; the older ones are still there.
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
        shutil.rmtree(target, ignore_errors=True)  # a damaged one that was ignored
        os.rename(partial, target)
        flush_to_disk(parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for other in parent.iterdir():
        if other.is_dir() and other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def checkpoints(parent: Path) -> list[Path]:
    """The checkpoints that lie there, the newest first; none of them checked."""
    found = [(int(match[1]), path) for path in _entries(parent) if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def check(folder: Path) -> None:
    """Checks every file of a checkpoint.

    Raises:
        CheckpointError: a file is missing or is not what was written.
    """
    try:
        said = (folder / SUMS).read_bytes()
        lines = _sums(folder, sorted(path.name for path in folder.iterdir() if path.name != SUMS))
    except OSError as error:
        raise CheckpointError(f"checkpoint {folder}: {error}") from error
    if said != "".join(lines).encode():
        odd = {line.strip().partition("  ")[2] for line in {*said.decode(errors="replace").splitlines(True)} ^ {*lines}}
        raise CheckpointError(f"checkpoint {folder}: {', '.join(sorted(odd))}: not what was written")


@dataclass(frozen=True)
class Count:
    """How far a cell has come, told so often that a kill loses nothing of it.

    Attributes:
        times: how often it has been resumed.
        lost: steps that were done and are not in the checkpoint that it went on from, over all times; None is unknown.
        step: steps done, counted from the start of training.
    """

    times: int = 0
    lost: int | None = 0
    step: int = 0


class StepCounter:
    """Keeps a :class:`Count` in a file that outlives the process, though not a crash of the machine.

    One short write into the same place, so that it may follow every step: it is no more than a copy into the kernel.
    """

    def __init__(self, parent: Path):
        parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(parent / "steps.json", os.O_RDWR | os.O_CREAT, 0o666)

    def read(self) -> Count | None:
        """What was last written; None if nothing was, or nothing that makes sense."""
        try:
            count = Count(**json.loads(os.pread(self._file, _COUNT_BYTES, 0)))
        except (ValueError, TypeError, OSError):
            return None
        numbers = (count.times, 0 if count.lost is None else count.lost, count.step)
        return count if all(type(number) is int and number >= 0 for number in numbers) else None

    def write(self, count: Count) -> None:
        """Takes the place of what was there."""
        os.pwrite(self._file, json.dumps(asdict(count)).encode().ljust(_COUNT_BYTES), 0)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def _entries(parent: Path) -> Iterator[Path]:
    try:
        yield from parent.iterdir()
    except (FileNotFoundError, NotADirectoryError):
        return


def _sums(folder: Path, names: Iterable[str]) -> list[str]:
    return [f"{sum_line(folder, name)}\n" for name in names]
