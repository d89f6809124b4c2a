"""The parts of a report that belong to one block: its main table, what failed, its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reports.blocks import BASELINE, Block, Spread
from reports.figures import Drawing
from reports.text import count, escape, number, ratio, size, table

_REFERENCES = {"random": "random order", "popularity": "popularity", "bayes": "Bayes ceiling", "oracle": "oracle"}
_FLOORS = ("random", "popularity")
_MARK = "†"


@dataclass(frozen=True)
class _Column:
    name: str
    title: str
    words: Callable[[float], str]
    higher_is_better: bool = False
    reference: bool = False

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.higher_is_better else min(values)


_COLUMNS = (
    _Column("hr@10", "HR@10", lambda value: f"{value:.3f}", higher_is_better=True, reference=True),
    _Column("ndcg@10", "NDCG@10", lambda value: f"{value:.3f}", higher_is_better=True, reference=True),
    _Column("epoch_seconds", "s per epoch", number),
    _Column("trainable_params", "Trainable parameters", count),
    _Column("peak_memory_bytes", "Peak memory", size),
    _Column("tpme", "TPME", lambda value: f"{value:.3f}"),
)


def main_table(block: Block) -> str:
    """Methods between the floors and the ceilings; costs and accuracy with ±, each also relative to `fft`."""
    header = ["Method", *(column.title for column in _COLUMNS)]
    best = {column.name: _best(block, column) for column in _COLUMNS}
    rows = [_reference_row(block, name) for name in _FLOORS if name in block.references]
    rows += [
        [_named(block, method), *(_cell(block, method, column, best[column.name]) for column in _COLUMNS)]
        for method in block.methods
    ]
    rows += [_reference_row(block, name) for name in _REFERENCES if name not in _FLOORS and name in block.references]
    warned = any(block.warned(method) for method in block.methods)
    note = f" {_MARK} a cell of this method has a warning, see [Warnings](#warnings)." if warned else ""
    return f"{table(header, rows)}\n\n{_legend(block)}{note}"


def _named(block: Block, method: str) -> str:
    """A method's name, with a mark where its figures are to be read with care."""
    return f"{escape(method)} {_MARK}" if block.warned(method) else escape(method)


def _best(block: Block, column: _Column) -> float | None:
    values = [value for method in block.methods if (value := block.value(method, column.name)) is not None]
    if len(values) < 2 or (column.reference and block.random_weights):
        return None
    return column.best(values)


def _reference_row(block: Block, name: str) -> list[str]:
    cells = []
    for column in _COLUMNS:
        value = block.reference(name, column.name) if column.reference else None
        cells.append("" if value is None else f"_{column.words(value)}_")
    return [f"_{_REFERENCES[name]}_", *cells]


def _cell(block: Block, method: str, column: _Column, best: float | None) -> str:
    spread = block.spread(method, column.name)
    if spread is None:
        return _instead(block, method) if column is _COLUMNS[0] else ""
    text = column.words(spread.mean)
    if spread.mean == best:
        text = f"**{text}**"
    text += _plus_minus(spread, column)
    base = block.value(BASELINE, column.name)
    return f"{text} ({ratio(spread.mean, base)})" if base and method != BASELINE else text


def _instead(block: Block, method: str) -> str:
    """How the cells of a method ended that has no figures."""
    ended = block.results.loc[block.results["method"] == method, "status"].unique()
    return ", ".join(f"_{escape(status)}_" for status in ended if status != "ok")


def _plus_minus(spread: Spread, column: _Column) -> str:
    # What is counted exactly (parameters, bytes of an account) is the same for each seed: ± 0 would only be noise.
    if not spread.half:
        return ""
    decimals = len(number(spread.mean).partition(".")[2])
    if column.words is number and decimals and float(f"{spread.half:.{decimals}f}"):
        return f" ± {spread.half:.{decimals}f}"
    return f" ± {column.words(spread.half)}"


def _legend(block: Block) -> str:
    seeds = sorted({block.seeds(method) for method in block.methods} - {0})
    if not seeds:
        return "No method has figures."
    parts = [f"Means over the seeds that ended ok ({' or '.join(map(str, seeds))} per method)"]
    if any(block.seeds(method) > 1 for method in block.methods):
        parts.append("± is half of the 95 % t interval over seeds")
    if 1 in seeds and block.paired:
        parts.append(f"with one seed, that of HR@10 and NDCG@10 is over {count(block.paired.users)} users (bootstrap)")
    elif 1 in seeds and block.users:
        parts.append(f"with one seed, that of HR@10 is 1.96 √(p(1−p)/{count(block.users)} users)")
    if 2 in seeds:
        parts.append("with two seeds the t interval is 12.7 standard errors to either side and itself very uncertain")
    if block.seeds(BASELINE):
        parts.append(f"in brackets the ratio to {BASELINE}")
    parts.append("bold is the best of a column, whether or not the spread allows to call it better")
    sources = sorted({str(source) for source in block.results["memory_source"].dropna()})
    if sources:
        parts.append(f"memory source: {', '.join(escape(source) for source in sources)}")
    return "; ".join(parts) + "."


def failures(block: Block) -> str:
    """The cells that did not end ok, or nothing."""
    broken = block.results[block.results["status"] != "ok"]
    if broken.empty:
        return ""
    rows = [
        [
            escape(row["cell_id"]),
            escape(row["status"]),
            escape(row["error"], limit=300) if isinstance(row["error"], str) else "",
        ]
        for _, row in broken.iterrows()
    ]
    return table(["Cell that did not end ok", "Status", "Error"], rows, numbers_from=3)


def figures(drawings: Sequence[Drawing]) -> str:
    """The figures with their captions; for one that could not be drawn, the reason."""
    parts = []
    for drawing in drawings:
        if drawing.png is None:
            parts.append(f"_{drawing.title}: not drawn, {escape(drawing.reason)}._")
        else:
            parts.append(f"![{drawing.title}](figures/{drawing.stem}.png)\n\n_{drawing.title}. {drawing.caption}_")
    return "\n\n".join(parts)
