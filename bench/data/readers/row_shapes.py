"""Notes about rows of a text file that are not one line with one field per column."""

from __future__ import annotations

from collections.abc import Container

from bench.data.readers.columns import Chunk, TableFile


class RowShapes:
    """Counts of the rows with too few fields and of the rows with line breaks."""

    def __init__(self, file: TableFile):
        self._file = file
        self._short = self._broken = 0
        self._first_short = self._first_broken = ""
        self._inside: list[tuple[str, str]] = []

    def add(self, chunk: Chunk) -> None:
        """Counts the rows of a chunk."""
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
        if self._short:
            found.append(
                f"{name}: {self._short} rows have fewer fields than the file has columns (the first: "
                f"{self._first_short}); the missing fields count as empty."
            )
        if self._broken:
            found.append(f"{name}: {self._broken} rows hold line breaks (the first: {self._first_broken}).")
        return found

    def warnings(self, items: Container[str]) -> list[str]:
        """Warning about lines inside quotation marks that look like rows and name a known item."""
        places = [place for place, item in self._inside if item in items]
        if not places:
            return []
        return [
            f"{self._file.path.name}: {len(places)} lines inside of quotation marks look like rows of their own (the "
            f"first in {places[0]}); they are not read: is a quotation mark not closed?"
        ]
