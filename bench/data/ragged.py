"""Sequences of different lengths in two arrays: lists of half a million Python objects would be slow and large."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Ragged(Sequence[NDArray[np.int32]]):
    """Rows of item indices of different lengths; indexing gives a view of a row."""

    flat: NDArray[np.int32]
    """All rows, one after the other, (entries,)."""
    offsets: NDArray[np.int64]
    """Start of each row in `flat`, and the end of the last row, (rows + 1,)."""

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.int32]]) -> Ragged:
        """Joins rows; a `Ragged` is returned as it is."""
        if isinstance(rows, Ragged):
            return rows
        flat = np.concatenate(rows).astype(np.int32) if rows else np.zeros(0, dtype=np.int32)
        return cls(flat, offsets_of(np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of entries of each row, (rows,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> NDArray[np.int32]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.int32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.int32] | Sequence[NDArray[np.int32]]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = index + len(self) if index < 0 else index
        if not 0 <= row < len(self):
            raise IndexError(index)
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    def slices(self, rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Ragged:
        """Parts of the given rows.

        Args:
            rows: indices of rows, (n,).
            starts, ends: range of entries within each of them, (n,).
        """
        lengths = ends - starts
        offsets = offsets_of(lengths)
        first = self.offsets[rows] + starts
        return Ragged(self.flat[np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], lengths)], offsets)

    def windows(self, rows: NDArray[np.int64], ends: NDArray[np.int64], width: int, fill: int) -> NDArray[np.int32]:
        """The ``width`` entries before an end in each of the given rows, (n, width).

        Args:
            rows: indices of rows, (n,).
            ends: number of entries of each of them that may be used, (n,).
            width: number of columns of the result.
            fill: value of the columns on the left that a row has no entries for.
        """
        first = self.offsets[rows]
        places = (first + ends)[:, None] + np.arange(-width, 0)
        inside = places >= first[:, None]
        return np.where(inside, self.flat[np.where(inside, places, 0)], fill).astype(np.int32, copy=False)


def offsets_of(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Start of each row of the given lengths, and the end of the last row, (rows + 1,)."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
