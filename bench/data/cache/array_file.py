"""File format of one array of rows: plain safetensors, with the checksum of every block of rows in the header.

The header is the first part of the file and the checksums are known last, so its space is reserved: every field has a
fixed width, and the length of the header follows from shape and names alone. The header is written when all blocks are
there. A second file for the checksums would be simpler, but could get lost.

Blocks have a CRC-32, which detects every single flipped bit and every burst of up to 32 bits, and is the fastest check
in Python's standard library. It protects against accidents, not against forgery. The header has its own digest.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import IO, Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

FORMAT = "iisan-bench-rows-1"
BLOCK_ROWS = 256
# Number types that can be stored, and their names in safetensors.
DTYPES = {"float16": "F16", "float32": "F32", "uint8": "U8"}
# Data start at a page boundary.
_ALIGNMENT = 4096
# safetensors itself refuses larger headers.
_MAX_HEADER_BYTES = 100_000_000
_NO_SEAL = "0" * 32
_OWN = ("format", "key", "block_rows", "seconds", "sums", "seal")
# Largest file that is memory-mapped. Mapped pages count as the process's memory, and one fault may map a whole large
# page of the system's cache. Larger files are read row by row: 1.5 ms instead of 0.3 ms for the 704 items of 64 users.
MAPPED_BYTES = 512 << 20


class Damaged(Exception):
    """Checksum mismatch or wrong format of a file; the message says where."""


@dataclass(frozen=True)
class Layout:
    """Description of an array file that is known before its values are computed.

    Attributes:
        key: content address, the stem of the file's name.
        tensor: name of the array in the file.
        shape: shape of the array, rows first.
        dtype: key of ``DTYPES``.
        facts: further header entries for people to read; not compared.
    """

    key: str
    tensor: str
    shape: tuple[int, ...]
    dtype: str
    facts: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def row_bytes(self) -> int:
        """Bytes per row."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def n_blocks(self) -> int:
        """Number of blocks of ``BLOCK_ROWS`` rows; the last block may be shorter."""
        return -(-self.shape[0] // BLOCK_ROWS)

    @cached_property
    def data_start(self) -> int:
        """Byte offset of the rows in the file."""
        length = 8 + len(self._json(0.0, [0] * self.n_blocks, _NO_SEAL))
        return -(-length // _ALIGNMENT) * _ALIGNMENT

    @property
    def file_bytes(self) -> int:
        """Bytes of the finished file."""
        return self.data_start + self.shape[0] * self.row_bytes

    def rows_of(self, block: int) -> range:
        """Indices of the rows of a block."""
        return range(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, self.shape[0]))

    def start_of(self, block: int) -> int:
        """Byte offset of a block in the file."""
        return self.data_start + block * BLOCK_ROWS * self.row_bytes

    def header(self, seconds: float, sums: Sequence[int]) -> bytes:
        """Header of the file, with its length in front: all bytes before the rows.

        Args:
            seconds: time of building the array.
            sums: CRC-32 of every block.
        """
        seal = hashlib.blake2b(self._json(seconds, sums, _NO_SEAL), digest_size=16).hexdigest()
        length = self.data_start - 8
        return length.to_bytes(8, "little") + self._json(seconds, sums, seal).ljust(length)

    def _json(self, seconds: float, sums: Sequence[int], seal: str) -> bytes:
        own = {
            "format": FORMAT,
            "key": self.key,
            "block_rows": str(BLOCK_ROWS),
            "seconds": f"{seconds:016.6f}",
            "sums": "".join(f"{value:08x}" for value in sums),
            "seal": seal,
        }
        tensor = {
            "dtype": DTYPES[self.dtype],
            "shape": list(self.shape),
            "data_offsets": [0, self.shape[0] * self.row_bytes],
        }
        # The name of a folder may contain bytes that are not UTF-8.
        text = json.dumps({"__metadata__": own | dict(self.facts), self.tensor: tensor}, ensure_ascii=False)
        return text.encode("utf-8", "replace")


@dataclass(frozen=True)
class Header:
    """Header of a finished file.

    Attributes:
        layout: description of the array.
        seconds: time of building the array, without time lost by a kill.
        sums: CRC-32 of every block.
    """

    layout: Layout
    seconds: float
    sums: tuple[int, ...]


def read_header(file: IO[bytes]) -> Header:
    """Reads and checks the header of a finished file, and checks the size of the file.

    Raises:
        Damaged: not a file of this format, a changed byte in the header, or a wrong size.
        OSError: the file cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
        raise Damaged("not a safetensors file, or cut off in its header")
    raw = start + file.read(length)
    try:
        header = _parse(json.loads(raw[8:]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged("not a file of this cache, or its header is damaged") from None
    if header.layout.header(header.seconds, header.sums) != raw:
        raise Damaged("checksum mismatch in its header")
    if size != header.layout.file_bytes:
        raise Damaged(f"has {size:,} bytes instead of {header.layout.file_bytes:,}")
    return header


def _parse(tables: dict[str, Any]) -> Header:
    own = tables.pop("__metadata__")
    if own["format"] != FORMAT:
        raise ValueError(own["format"])
    ((name, tensor),) = tables.items()
    (dtype,) = (ours for ours, theirs in DTYPES.items() if theirs == tensor["dtype"])
    facts = {key: value for key, value in own.items() if key not in _OWN}
    layout = Layout(own["key"], name, tuple(map(int, tensor["shape"])), dtype, facts)
    sums = bytes.fromhex(own["sums"])
    return Header(layout, float(own["seconds"]), tuple(np.frombuffer(sums, dtype=">u4").tolist()))


def bad_blocks(file: IO[bytes], layout: Layout, sums: Sequence[int]) -> list[int]:
    """Indices of the blocks whose checksums differ from ``sums``; reads one block into memory at a time."""
    buffer = memoryview(bytearray(BLOCK_ROWS * layout.row_bytes))
    bad = []
    for block, expected in enumerate(sums):
        wanted = buffer[: len(layout.rows_of(block)) * layout.row_bytes]
        file.seek(layout.start_of(block))
        if _fill(file, wanted) < len(wanted) or zlib.crc32(wanted) != expected:
            bad.append(block)
    return bad


def _fill(file: IO[bytes], buffer: memoryview) -> int:
    done = 0
    while done < len(buffer) and (got := file.readinto(buffer[done:])):  # type: ignore[attr-defined]
        done += got
    return done


def check_blocks(file: IO[bytes], header: Header) -> None:
    """Compares the checksum of every block with the header.

    Raises:
        Damaged: a checksum differs; the message names the first block and counts the others.
    """
    bad = bad_blocks(file, header.layout, header.sums)
    if bad:
        rows = header.layout.rows_of(bad[0])
        more = f" and {len(bad) - 1} further blocks" if len(bad) > 1 else ""
        raise Damaged(f"block {bad[0]} (rows {rows[0]} to {rows[-1]}){more}: checksum mismatch")


class Rows:
    """Array-like view of a finished file: rows by index, in bounded memory.

    A file of more than ``MAPPED_BYTES`` is never memory-mapped. The lock on the file lives as long as this object.
    """

    def __init__(self, file: IO[bytes], layout: Layout):
        self.shape = layout.shape
        self.dtype = np.dtype(layout.dtype)
        self._layout = layout
        self._file: IO[bytes] | None = None
        self._array: NDArray[Any] | None = None
        if layout.file_bytes > MAPPED_BYTES:
            self._file = os.fdopen(os.dup(file.fileno()), "rb", buffering=0)
        else:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            raw = np.frombuffer(mapped, np.uint8, layout.file_bytes - layout.data_start, layout.data_start)
            self._array = raw.view(self.dtype).reshape(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: NDArray[np.int64] | SupportsIndex | slice) -> NDArray[Any]:
        if self._array is not None:
            return self._array[rows]
        found = np.arange(len(self))[rows]
        return self._read(found.reshape(-1)).reshape(*found.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self[:]
        return array.astype(dtype or self.dtype, copy=bool(copy))

    def _read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        assert self._file is not None
        size, descriptor = self._layout.row_bytes, self._file.fileno()
        out = np.empty((len(rows), size), dtype=np.uint8)
        buffer = out.reshape(-1).data
        starts = (self._layout.data_start + rows * size).tolist()
        for place, start in zip(range(0, len(rows) * size, size), starts, strict=True):
            if os.preadv(descriptor, [buffer[place : place + size]], start) != size:
                raise OSError(f"cache file {self._layout.key}: was cut off while it was read")
        return out.view(self.dtype).reshape(len(rows), *self.shape[1:])
