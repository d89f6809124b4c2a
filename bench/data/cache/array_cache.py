"""Arrays that are computed once, block by block, and then served from disk: built by one process, resumed after a kill.

A build writes ``.KEY.partial`` and notes every finished block with its checksum in ``.KEY.journal``. Whoever builds
holds a lock on the partial file, which ends with the process. The next builder checks the blocks of the journal, goes
on behind the last good one, and renames the file when all are there.
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
    """An array that was found or built.

    Attributes:
        seconds: what computing and writing its blocks took, whenever that was.
        reused: it was there already.
        size: bytes of the file.
        warning: what was wrong with the file that was there; empty if nothing was.
    """

    rows: Rows
    seconds: float
    reused: bool
    size: int
    warning: str = ""


def open_or_build(folder: Path, layout: Layout, compute: Compute, progress: Progress | None = None) -> Served:
    """Serves the array named by the layout's key, or builds it; every block is checked before it is served.

    A file that is not what was written is named in a warning and built again. Where another process is building, this
    one waits for it.

    Args:
        folder: a folder of the cache folder.
        layout: what the file is to hold.
        compute: row indices -> their rows, of the layout's type.
        progress: told the rows that are done, and all; while waiting, as far as the other has come.

    Raises:
        UserError: the disk is full, the limit does not allow it, or the folder cannot be written.
    """
    path, paths = folder / f"{layout.key}{eviction.WHOLE_SUFFIX}", _Paths.of(folder, layout.key)
    while True:
        with suppress(FileNotFoundError, Damaged):
            return _serve(path, layout)
        with _naming(path, layout, paths):
            folder.mkdir(parents=True, exist_ok=True)
            file = _claim(paths, layout, progress)
        if file is not None:
            with file:
                return _serve_or_build(path, paths, file, layout, compute, progress)


@dataclass(frozen=True)
class _Paths:
    """The files of an unfinished build."""

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
    """The finished file, checked.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it is not what was written, or what is wanted.
    """
    try:
        with path.open("rb") as file:
            locks.share(file)
            header = read_header(file)
            if header.layout != layout:
                raise Damaged("it holds another array than its name says")
            check_blocks(file, header)
            eviction.touch(path)
            return Served(Rows(file, header.layout), header.seconds, True, layout.file_bytes)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror or error}") from error


def _claim(paths: _Paths, layout: Layout, progress: Progress | None) -> IO[bytes] | None:
    """The partial file, made if need be, held by this process alone; None when another has finished it meanwhile."""
    descriptor = os.open(paths.partial, os.O_RDWR | os.O_CREAT, 0o666)
    file = os.fdopen(descriptor, "r+b", buffering=0)
    try:
        seen = -1
        while not locks.try_exclusive(file):
            if not locks.is_at(file, paths.partial):
                break
            # Tells of the other's progress and not of the waiting: a build that hangs must look like one.
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
    """Computes what the journal does not have, and puts the file in its place; gives what all blocks took, in s."""
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
    """The blocks that are there and whole, checksum and seconds each; the journal is cut behind them."""
    noted = _journal(journal, layout)
    bad = bad_blocks(file, layout, [value for value, _ in noted])
    good = noted[: bad[0]] if bad else noted
    text = _identity(layout) + b"".join(_line(*block) for block in good)
    if not journal.is_file() or not journal.read_bytes().startswith(text):
        journal.write_bytes(text)
    os.truncate(journal, len(text))
    return good


def _identity(layout: Layout) -> bytes:
    """First line of a journal: of another layout's file nothing is to be had."""
    return f"{zlib.crc32(layout.header(0.0, [0] * layout.n_blocks)):08x} {layout.key}\n".encode()


def _line(checksum: int, seconds: float) -> bytes:
    return f"{checksum:08x} {seconds!r}\n".encode()


def _journal(path: Path, layout: Layout) -> list[tuple[int, float]]:
    """Checksum and seconds of the blocks that a journal notes; a line that was cut off ends it."""
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
    """All of it: a disk that fills up takes a part first."""
    while data:
        written = os.pwrite(file.fileno(), data, offset)
        data, offset = data[written:], offset + written


def _check_space(partial: Path, layout: Layout) -> None:
    """Raises OSError if the disk cannot take what is not on it yet."""
    if layout.file_bytes - partial.stat().st_blocks * 512 > _free_bytes(partial.parent):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.is_dir())).free


@contextmanager
def _naming(path: Path, layout: Layout, paths: _Paths) -> Iterator[None]:
    """What the system refuses as one line. A full disk loses the unfinished build, so its line is of the whole file."""
    try:
        yield
    except OSError as error:
        said = f"cache file {path}: {error.strerror or error}"
        if error.errno not in _FULL:
            raise UserError(said) from error
        paths.remove()
        raise UserError(
            f"{said}: {layout.file_bytes:,} bytes needed, {_free_bytes(path.parent):,} free; "
            "clear the cache (run_bench.py cache clear) or give another folder with --cache-dir"
        ) from error
