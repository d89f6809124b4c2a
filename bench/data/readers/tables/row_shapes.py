"""Notes about rows of a text file that are not one line with one field per column."""

from __future__ import annotations

from collections.abc import Container

from bench.data.readers.tables.columns import Chunk, TableFile

FEW = 0.03
"""Largest share of rows that may be lost or damaged without a warning."""


class RowShapes:
    """Counts of the rows with too few fields and of the rows with line breaks."""

    def __init__(self, file: TableFile):
        self._file = file
        self._rows = self._short = self._broken = 0
        self._first_short = self._first_broken = ""
        self._inside: list[tuple[str, str]] = []

    def add(self, chunk: Chunk) -> None:
        """Counts the rows of a chunk."""
        self._rows += len(chunk.frame)
        if chunk.short:
            self._first_short = self._first_short or f"row {chunk.first + chunk.short[0]}"
            self._short += len(chunk.short)
        for row, lines in chunk.broken.items():
            place = f"row {chunk.first + row}"
            self._first_broken = self._first_broken or place
            self._broken += 1
            self._inside += [(place, line["item"]) for line in lines]

    def notes(self) -> list[str]:
        """Notes for the report, if there are such rows."""
        name, found = self._file.path.name, []
        if 0 < self._short <= FEW * self._rows:
            found.append(self._shortened())
        if self._broken:
            found.append(f"{name}: {self._broken} rows hold line breaks (the first: {self._first_broken}).")
        return found

    def warnings(self, items: Container[str]) -> list[str]:
        """Warnings about many rows with too few fields, and about lines inside quotation marks that look like rows.

        Args:
            items: known items, one of which a line must name to look like a row.
        """
        places = [place for place, item in self._inside if item in items]
        found = [self._shortened()] if self._short > FEW * self._rows else []
        if places:
            found.append(
                f"{self._file.path.name}: {len(places)} lines inside of quotation marks look like rows of their own "
                f"(the first in {places[0]}); they are not read: is a quotation mark not closed?"
            )
        return found

    def _shortened(self) -> str:
        return (
            f"{self._file.path.name}: {self._short} of {self._rows} rows have fewer fields than the file has columns "
            f"(the first: {self._first_short}); the missing fields count as empty."
        )
