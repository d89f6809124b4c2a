"""Studies, each of which answers one question from several cells; this module has the parts that they share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.columns import GROUP
from reports.analysis.comparison import Comparison
from reports.figures.drawing import Drawing
from reports.load.run_folders import Record
from reports.sections.accuracy import accuracy_of as accuracy_of
from reports.text import count, escape, number, ratio, size, table

MODELS = ("text_model", "image_model")
"""Columns of the encoders."""


class Strong(str):
    """Text of a cell that is set in bold."""


@dataclass(frozen=True)
class Grid:
    """Table of a study, for the report and for other programs."""

    stem: str
    """Name of its files without the extension."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Cells; they are not escaped."""
    words: int = 1
    """Number of columns with words, from the left; the others hold numbers."""

    def markdown(self) -> str:
        """The table as Markdown."""
        rows = [[*map(escape, row[: self.words]), *map(_marked, row[self.words :])] for row in self.rows]
        return table([*map(escape, self.header)], rows, self.words)


def _marked(figure: str) -> str:
    return f"**{figure}**" if isinstance(figure, Strong) else figure


@dataclass(frozen=True)
class Study:
    """Study as a chapter of the report."""

    title: str
    """Title; it is not escaped."""
    parts: Sequence[str | Grid]
    """Texts in Markdown, and tables."""
    drawings: Sequence[Drawing] = ()

    @property
    def grids(self) -> list[Grid]:
        """Tables among the parts."""
        return [part for part in self.parts if isinstance(part, Grid)]

    @property
    def markdown(self) -> list[str]:
        """All parts as Markdown."""
        return [part.markdown() if isinstance(part, Grid) else part for part in self.parts]


@dataclass(frozen=True)
class Variant:
    """Method as the matrix names it, with its kind and options."""

    method: str
    kind: str
    options: Mapping[str, Any]
    kept: int | None
    """Number of layers that the method reads, the larger one of two encoders; None if unknown."""

    @property
    def family(self) -> str:
        """Kind of the method, the same for its cached and uncached variant."""
        return self.kind.removesuffix("-cached")

    def without(self, *names: str) -> dict[str, Any]:
        """Options of the method without the named ones."""
        return {name: value for name, value in self.options.items() if name not in names}


def variants(comparison: Comparison) -> list[Variant]:
    """Variants of a comparison: its methods that ended ok."""
    first: dict[str, Record] = {}
    for record in comparison.records:
        if record.ok:
            first.setdefault(str(record.row["method"]), record)
    return [_variant(method, first[method]) for method in comparison.methods if method in first]


def _variant(method: str, record: Record) -> Variant:
    options, adapted = record.method.get("options"), record.method.get("adapted")
    kept = [n for n in adapted.values() if isinstance(n, int)] if isinstance(adapted, Mapping) else []
    kind = str(record.method.get("type") or method)
    return Variant(method, kind, options if isinstance(options, Mapping) else {}, max(kept, default=None))


def setting(comparison: Comparison) -> dict[str, Any]:
    """Values that all cells of a comparison share, by column of `GROUP`."""
    row = comparison.results.iloc[0]
    return {column: None if pd.isna(row[column]) else row[column] for column in GROUP}


def alike(comparisons: Sequence[Comparison], but: Sequence[str]) -> list[list[Comparison]]:
    """Group the comparisons that differ in the columns `but` alone, in the order of first appearance."""
    groups: dict[Hashable, list[Comparison]] = {}
    for comparison in comparisons:
        key = tuple(value for column, value in setting(comparison).items() if column not in but)
        groups.setdefault(key, []).append(comparison)
    return list(groups.values())


COSTS = (
    ("epoch_seconds", "s per epoch", number),
    ("peak_memory_bytes", "Peak memory", size),
    ("trainable_params", "Trainable parameters", count),
)
"""Column, title and format of each cost of a method."""


def costs_of(comparison: Comparison, method: str, base: str | None = None) -> list[str]:
    """The three costs of a method as text, with their ratio to the costs of the method `base`."""
    cells = []
    for column, _, words in COSTS:
        value = comparison.value(method, column)
        other = None if base is None or base == method else comparison.value(base, column)
        text = "" if value is None else words(value)
        cells.append(f"{text} ({ratio(value, other)})" if value is not None and other else text)
    return cells
