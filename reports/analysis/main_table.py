"""Main table of a comparison as rows and cells, the source of its Markdown, HTML, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from reports.analysis.comparison import BASELINE, Comparison, Spread
from reports.text import count, number, ratio, size

Kind = Literal["floor", "method", "ceiling"]

REFERENCES = {"random": "random order", "popularity": "popularity", "bayes": "Bayes ceiling", "oracle": "oracle"}
"""Floors and ceilings: name in dataset.json and name in the report."""
WARNED = "†"
"""Mark after the name of a method that has a cell with a warning."""
FLOORS = ("random", "popularity")


@dataclass(frozen=True)
class Column:
    """Column of the table: name in summary.csv, heading and format."""

    name: str
    title: str
    words: Callable[[float], str]
    higher_is_better: bool = False
    reference: bool = False
    """True for the columns of accuracy, which floors and ceilings have as well."""

    def best(self, values: Sequence[float]) -> float:
        """Best of some values, of which there must be at least one."""
        return max(values) if self.higher_is_better else min(values)


def _three_decimals(value: float) -> str:
    return f"{value:.3f}"


COLUMNS = (
    Column("hr@10", "HR@10", _three_decimals, higher_is_better=True, reference=True),
    Column("ndcg@10", "NDCG@10", _three_decimals, higher_is_better=True, reference=True),
    Column("epoch_seconds", "s per epoch", number),
    Column("trainable_params", "Trainable parameters", count),
    Column("peak_memory_bytes", "Peak memory", size),
    Column("tpme", "TPME", _three_decimals),
)


@dataclass(frozen=True)
class Cell:
    """One figure of one row; its texts need no escaping, since they hold nothing from data."""

    value: float | None = None
    text: str = ""
    half: str = ""
    """Half of the 95 % interval in the format of the figure; empty if there is none to show."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval."""
    ratio: str = ""
    """Ratio to the baseline; empty for the baseline and if the baseline has no figure."""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """Row of a method, a floor or a ceiling, with its cells in the order of `COLUMNS`."""

    name: str
    kind: Kind
    cells: tuple[Cell, ...]
    ended: tuple[str, ...] = ()
    """Statuses of the cells of a method without accuracy."""
    warned: bool = False
    """True if a cell of the method has a warning, so that its figures need care."""


def rows(comparison: Comparison) -> list[Row]:
    """Rows of the floors, then of the methods from the lowest TPME to the highest, then of the ceilings.

    Methods without a TPME come last, in the order of the comparison.
    """
    best = {column.name: _best(comparison, column) for column in COLUMNS}
    floors = [_reference_row(comparison, name, "floor") for name in FLOORS if name in comparison.references]
    above = [name for name in REFERENCES if name not in FLOORS and name in comparison.references]
    scored = comparison.summary["tpme"].sort_values(kind="stable", na_position="last")
    methods = [_method_row(comparison, str(method), best) for method in scored.index]
    return floors + methods + [_reference_row(comparison, name, "ceiling") for name in above]


def _best(comparison: Comparison, column: Column) -> float | None:
    values = [value for method in comparison.methods if (value := comparison.value(method, column.name)) is not None]
    if len(values) < 2 or (column.reference and comparison.random_weights):
        return None
    return column.best(values)


def _reference_row(comparison: Comparison, name: str, kind: Kind) -> Row:
    values = [comparison.reference(name, column.name) if column.reference else None for column in COLUMNS]
    cells = [
        Cell() if value is None else Cell(value, column.words(value))
        for column, value in zip(COLUMNS, values, strict=True)
    ]
    return Row(REFERENCES[name], kind, tuple(cells))


def _method_row(comparison: Comparison, method: str, best: dict[str, float | None]) -> Row:
    cells = tuple(_cell(comparison, method, column, best[column.name]) for column in COLUMNS)
    ended = comparison.results.loc[comparison.results["method"] == method, "status"].unique()
    broken = () if cells[0].text else tuple(str(status) for status in ended if status != "ok")
    return Row(method, "method", cells, broken, comparison.warned(method))


def _cell(comparison: Comparison, method: str, column: Column, best: float | None) -> Cell:
    spread = comparison.spread(method, column.name)
    if spread is None:
        return Cell()
    base = comparison.value(BASELINE, column.name)
    return Cell(
        value=spread.mean,
        text=column.words(spread.mean),
        half=_half(spread, column),
        low=spread.low,
        high=spread.high,
        ratio=ratio(spread.mean, base) if base and method != BASELINE else "",
        best=spread.mean == best,
    )


def _half(spread: Spread, column: Column) -> str:
    # Exact counts (parameters, bytes of the account) are the same for each seed: "± 0" would say nothing.
    if not spread.half:
        return ""
    decimals = len(number(spread.mean).partition(".")[2])
    if column.words is number and decimals and float(f"{spread.half:.{decimals}f}"):
        return f"{spread.half:.{decimals}f}"
    return column.words(spread.half)


def legend(comparison: Comparison, ratios: bool = True) -> str:
    """Explanation of the figures of the table as unescaped text; the memory sources in it come from data."""
    seeds = sorted({comparison.seeds(method) for method in comparison.methods} - {0})
    if not seeds:
        return "No method has figures."
    parts = [f"Means over the seeds that ended ok ({' or '.join(map(str, seeds))} per method)"]
    if any(comparison.seeds(method) > 1 for method in comparison.methods):
        parts.append("± is half of the 95 % t interval over seeds")
    if 1 in seeds and comparison.paired:
        users = count(comparison.paired.users)
        parts.append(f"with one seed, ± of HR@10 and NDCG@10 is half of the 95 % bootstrap interval over {users} users")
    elif 1 in seeds and comparison.users:
        parts.append(f"with one seed, ± of HR@10 is 1.96 √(p(1−p)/{count(comparison.users)} users)")
    if 2 in seeds:
        parts.append("with two seeds the t interval is 12.7 standard errors to either side and very uncertain")
    if ratios and comparison.seeds(BASELINE):
        parts.append(f"the number in brackets is the ratio to {BASELINE}")
    parts.append("the best figure of a column is bold, whether or not a difference is shown")
    sources = sorted({str(source) for source in comparison.results["memory_source"].dropna()})
    if sources:
        parts.append(f"memory source: {', '.join(sources)}")
    return "; ".join(parts) + "."
