"""A study: what some cells say together about one question. It is in the report wherever there are cells that do."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.records.columns import GROUP
from reports.analysis.comparison import Comparison
from reports.figures.drawing import Drawing
from reports.load.run_folders import Record
from reports.text import count, escape, number, ratio, size, table

MODELS = ("text_model", "image_model")
"""Columns of the encoders."""


class Strong(str):
    """Words of a cell that stand out."""


@dataclass(frozen=True)
class Grid:
    """A table of a study, for the report and for other programs."""

    stem: str
    """What its files are called, without their ending."""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """Nothing of it escaped."""
    words: int = 1
    """How many columns hold words; the others hold figures."""

    def markdown(self) -> str:
        """As it stands in the report."""
        rows = [[*map(escape, row[: self.words]), *map(_marked, row[self.words :])] for row in self.rows]
        return table([*map(escape, self.header)], rows, self.words)


def _marked(figure: str) -> str:
    return f"**{figure}**" if isinstance(figure, Strong) else figure


@dataclass(frozen=True)
class Study:
    """A chapter of the report."""

    title: str
    """Not escaped."""
    parts: Sequence[str | Grid]
    """Markdown, and tables."""
    drawings: Sequence[Drawing] = ()

    @property
    def grids(self) -> list[Grid]:
        """The tables among the parts."""
        return [part for part in self.parts if isinstance(part, Grid)]

    @property
    def markdown(self) -> list[str]:
        """The parts as they stand in the report."""
        return [part.markdown() if isinstance(part, Grid) else part for part in self.parts]


@dataclass(frozen=True)
class Variant:
    """A method as a matrix names it, with what it is."""

    method: str
    kind: str
    options: Mapping[str, Any]
    kept: int | None
    """How many layers it reads of the encoder of which it reads most; None where that is unknown."""

    @property
    def family(self) -> str:
        """The kind, cached or not."""
        return self.kind.removesuffix("-cached")

    def without(self, *names: str) -> dict[str, Any]:
        """Its options but for these."""
        return {name: value for name, value in self.options.items() if name not in names}


def variants(comparison: Comparison) -> list[Variant]:
    """The methods of a comparison that ended ok."""
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
    """What all cells of a comparison share, by column."""
    row = comparison.results.iloc[0]
    return {column: None if pd.isna(row[column]) else row[column] for column in GROUP}


def alike(comparisons: Sequence[Comparison], but: Sequence[str]) -> list[list[Comparison]]:
    """Blocks that differ in nothing but these columns, together; in the order of first appearance."""
    groups: dict[Hashable, list[Comparison]] = {}
    for comparison in comparisons:
        key = tuple(value for column, value in setting(comparison).items() if column not in but)
        groups.setdefault(key, []).append(comparison)
    return list(groups.values())


def accuracy_of(comparison: Comparison, method: str) -> str:
    """HR@10 with half of its interval; empty where it was not measured."""
    spread = comparison.spread(method, "hr@10")
    if spread is None:
        return ""
    return f"{spread.mean:.3f}" + (f" ± {spread.half:.3f}" if spread.half else "")


COSTS = (
    ("epoch_seconds", "s per epoch", number),
    ("peak_memory_bytes", "Peak memory", size),
    ("trainable_params", "Trainable parameters", count),
)
"""Column, title and words of what a method costs."""


def costs_of(comparison: Comparison, method: str, base: str | None = None) -> list[str]:
    """The three costs of a method in words, with their ratio to those of another."""
    cells = []
    for column, _, words in COSTS:
        value = comparison.value(method, column)
        other = None if base is None or base == method else comparison.value(base, column)
        text = "" if value is None else words(value)
        cells.append(f"{text} ({ratio(value, other)})" if value is not None and other else text)
    return cells
