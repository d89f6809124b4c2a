"""Cache of arrays that are computed once, block by block: built by one process, resumed after a kill.

A build writes ``.KEY.partial`` and records the checksum of every finished block in ``.KEY.journal``. The building
process holds a lock on the partial file, which ends with the process. The next builder checks the blocks of the
journal, continues after the last intact block, and renames the file when all blocks are there.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import eviction
from bench.data.cache.array_file import Damaged, Layout, Rows, bad_blocks, check_blocks, read_header
from bench.utils import locks
from bench.utils.errors import UserError
from bench.utils.files import flush_to_disk

Compute = Callable[[NDArray[np.int64]], NDArray[np.generic]]
Progress = Callable[[int, int], None]

WAIT_SECONDS = 0.1
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """An array from the cache, found or built.

    Attributes:
        rows: the array.
        seconds: time of computing and writing the blocks, in this or an earlier process.
        reused: True if the file was in the cache already.
        size: bytes of the file.
        warning: damage of the file that was in the cache; empty if there was none.
    """

    rows: Rows
    seconds: float
    reused: bool
    size: int
    warning: str = ""


def open_or_build(folder: Path, layout: Layout, compute: Compute, progress: Progress | None = None) -> Served:
    """Serves the array named by the layout's key, or builds it. The checksum of every block is checked first.

    A damaged file is reported in a warning and built again. While another process builds the array, this one waits.

    Args:
        folder: folder of this kind of arrays within the cache folder.
        layout: key, shape and type of the array.
        compute: row indices -> their rows, of the layout's type.
        progress: called with the number of finished rows and of all rows; while waiting, with the other process's.

    Raises:
        UserError: the disk is full, the limit of the cache is too small, or the folder cannot be written.
    """
    path, paths = folder / f"{layout.key}{eviction.WHOLE_SUFFIX}", _Paths.of(folder, layout.key)
    while True:
        if found := find(folder, layout):
            return found
        with _naming(path, layout, paths):
            folder.mkdir(parents=True, exist_ok=True)
            file = _claim(paths, layout, progress)
        if file is not None:
            with file:
                return _serve_or_build(path, paths, file, layout, compute, progress)


def find(folder: Path, layout: Layout) -> Served | None:
    """Serves the array named by the layout's key, its checksums checked; None if it is absent or damaged."""
    with suppress(FileNotFoundError, Damaged):
        return _serve(folder / f"{layout.key}{eviction.WHOLE_SUFFIX}", layout)
    return None


@dataclass(frozen=True)
class _Paths:
    """Paths of the files of an unfinished build."""

    partial: Path
    journal: Path

    @classmethod
    def of(cls, folder: Path, key: str) -> _Paths:
        return cls(folder / f".{key}{eviction.PARTIAL_SUFFIX}", folder / f".{key}{eviction.JOURNAL_SUFFIX}")

    def remove(self) -> None:
        with suppress(OSError):
            self.journal.unlink(missing_ok=True)
            self.partial.unlink(missing_ok=True)


def _serve(path: Path, layout: Layout) -> Served:
    """Opens the finished file and checks it.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: a checksum does not match, or the file holds another array than the layout.
    """
    try:
        with path.open("rb") as file:
            locks.share(file)
            header = read_header(file)
            if header.layout != layout:
                raise Damaged("holds another array than its name says")
            check_blocks(file, header)
            eviction.touch(path)
            return Served(Rows(file, header.layout), header.seconds, True, layout.file_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror or error}") from error


def _claim(paths: _Paths, layout: Layout, progress: Progress | None) -> IO[bytes] | None:
    """The locked partial file, made if absent; None if another process finished the build meanwhile."""
    descriptor = os.open(paths.partial, os.O_RDWR | os.O_CREAT, 0o666)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        seen = -1
        while not locks.try_exclusive(file):
            if not locks.is_at(file, paths.partial):
                break
            # Reports the progress of the other process, not the waiting: a build that hangs must be seen to hang.
            done = len(_journal(paths.journal, layout))
            if progress is not None and done != seen:
                progress(_rows_done(layout, done), layout.shape[0])
            seen = done
            time.sleep(WAIT_SECONDS)
        if locks.is_at(file, paths.partial):
            return file
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _serve_or_build(
    path: Path, paths: _Paths, file: IO[bytes], layout: Layout, compute: Compute, progress: Progress | None
) -> Served:
    warning = ""
    try:
        served = _serve(path, layout)
    except FileNotFoundError:
        pass
    except Damaged as error:
        warning = f"{path}: {error}; built again"
        _log.warning("damaged cache file %s", warning)
    else:
        paths.remove()
        return served
    try:
        with _naming(path, layout, paths):
            if warning:
                path.unlink()
            eviction.reserve(path.parent.parent, paths.partial, layout.file_bytes)
            _check_space(paths.partial, layout)
        seconds = _build(path, paths, file, layout, compute, progress)
    except UserError:
        paths.remove()
        raise
    return Served(Rows(file, layout), seconds, False, layout.file_bytes, warning)


def _build(
    path: Path, paths: _Paths, file: IO[bytes], layout: Layout, compute: Compute, progress: Progress | None
) -> float:
    """Computes the blocks that the journal lacks and renames the file; returns the seconds of all blocks."""
    with _naming(path, layout, paths):
        blocks = _resume(file, paths.journal, layout)
    with paths.journal.open("ab", buffering=0) as journal:
        for block in range(len(blocks), layout.n_blocks):
            if progress is not None:
                progress(_rows_done(layout, block), layout.shape[0])
            started = perf_counter()
            rows = layout.rows_of(block)
            data = np.ascontiguousarray(compute(np.arange(rows.start, rows.stop)), dtype=layout.dtype)
            if data.shape != (len(rows), *layout.shape[1:]):
                raise ValueError(f"computed {data.shape} for rows of {layout.shape}")
            with _naming(path, layout, paths):
                raw = data.reshape(-1).view(np.uint8).data
                _write(file, raw, layout.start_of(block))
                blocks.append((zlib.crc32(raw), perf_counter() - started))
                journal.write(_line(*blocks[-1]))
    seconds = sum(seconds for _, seconds in blocks)
    with _naming(path, layout, paths):
        os.fsync(file.fileno())
        _write(file, memoryview(layout.header(seconds, [value for value, _ in blocks])), 0)
        os.fsync(file.fileno())
        os.replace(paths.partial, path)
        paths.journal.unlink(missing_ok=True)
        flush_to_disk(path.parent)
    locks.share(file)
    if progress is not None:
        progress(layout.shape[0], layout.shape[0])
    return seconds


def _rows_done(layout: Layout, blocks: int) -> int:
    return layout.rows_of(blocks - 1).stop if blocks else 0


def _resume(file: IO[bytes], journal: Path, layout: Layout) -> list[tuple[int, float]]:
    """Checksum and seconds of the intact blocks before the first damaged one; the journal is cut after them."""
    noted = _journal(journal, layout)
    bad = bad_blocks(file, layout, [value for value, _ in noted])
    good = noted[: bad[0]] if bad else noted
    text = _identity(layout) + b"".join(_line(*block) for block in good)
    if not journal.is_file() or not journal.read_bytes().startswith(text):
        journal.write_bytes(text)
    os.truncate(journal, len(text))
    return good


def _identity(layout: Layout) -> bytes:
    """First line of a journal, which identifies the layout: blocks of another layout cannot be used."""
    return f"{zlib.crc32(layout.header(0.0, [0] * layout.n_blocks)):08x} {layout.key}\n".encode()


def _line(checksum: int, seconds: float) -> bytes:
    return f"{checksum:08x} {seconds!r}\n".encode()


def _journal(path: Path, layout: Layout) -> list[tuple[int, float]]:
    """Checksum and seconds of the blocks in a journal, up to the first line that was cut off."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    noted = []
    if lines[:1] == [_identity(layout)]:
        for line in lines[1 : layout.n_blocks + 1]:
            try:
                checksum, seconds = line.split()
                block = (int(checksum, 16), float(seconds))
            except ValueError:
                break
            if line != _line(*block):
                break
            noted.append(block)
    return noted


def _write(file: IO[bytes], data: memoryview, offset: int) -> None:
    """Writes all of the data: on a disk that fills up, a single call writes only a part."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def _check_space(partial: Path, layout: Layout) -> None:
    """Raises OSError if the disk lacks space for the rest of the file."""
    if layout.file_bytes - partial.stat().st_blocks * 512 > _free_bytes(partial.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


@contextmanager
def _naming(path: Path, layout: Layout, paths: _Paths) -> Iterator[None]:
    """Turns an OSError into a UserError that names the cache file.

    A full disk removes the unfinished build, so the message for it states the size of the whole file.
    """
    try:
        yield
    except OSError as error:
        said = f"cache file {path}: {error.strerror or error}"
        if error.errno not in _FULL:
            raise UserError(said) from error
        paths.remove()
        raise UserError(
            f"{said}: {layout.file_bytes:,} bytes needed, {_free_bytes(path.parent):,} free; "
            "clear the cache (run_bench.py cache clear) or choose another folder with --cache-dir"
        ) from error
