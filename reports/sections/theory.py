"""Section on theory: the complexity table of IISAN (arXiv 2404.02059, Table 1), term by term beside measurements.

FP, BP and WU are the forward pass, the backward pass and the weight update of the backbones, MW and A their weights and
activations; lower-case letters stand for the same terms of the small modules. The table gives the terms of each method.
A measurement confirms the theory if equal terms cost the same and terms in lower case cost less than those in capitals.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np

from bench.records.columns import MEMORY_PARTS
from reports.analysis import resampling
from reports.analysis.comparison import BASELINE, Comparison
from reports.analysis.resampled_steps import by_seed, resampled_means
from reports.load.run_folders import Record
from reports.load.steps import SECONDS
from reports.sections.accuracy import NO_DIFFERENCE
from reports.sections.compiled import of_eager_steps
from reports.text import escape, listing, number, ratio, size, table

TERMS: dict[str, tuple[str, ...]] = {
    "fft": ("FP", "BP", "WU", "MW", "A"),
    "adapter": ("FP", "BP", "wu", "MW", "A"),
    "lora": ("FP", "BP", "wu", "MW", "A"),
    "iisan": ("FP", "bp", "wu", "MW", "a"),
    "iisan-cached": ("fp", "bp", "wu", "mw", "a"),
}
"""Terms of time (three) and of memory (two) of each kind of method that the paper's table contains."""

HELD = "as predicted"

_TIME, _MEMORY = slice(0, 3), slice(3, 5)
_STEP, _PEAK = SECONDS, "peak_bytes"
_PHASES = ("backbone", "forward", "backward", "optimizer", _STEP)
# The terms of the theory come first.
_PARTS = (*sorted(MEMORY_PARTS, key=lambda part: part not in ("parameters", "activations")), _PEAK)

# Phase or part of memory that measures a term, and its name in the report.
_MEASURED = {
    "FP": ("backbone", "forward pass of the backbones"),
    "fp": ("forward", "forward pass of the rest"),
    "BP": ("backward", "backward pass"),
    "bp": ("backward", "backward pass"),
    "WU": ("optimizer", "weight update"),
    "wu": ("optimizer", "weight update"),
    "MW": ("parameters", "weights"),
    "mw": ("parameters", "weights"),
    "A": ("activations", "activations"),
    "a": ("activations", "activations"),
}


@dataclass(frozen=True)
class Amount:
    """Mean over seeds, in seconds or bytes, with bootstrap replicates over steps and seeds."""

    mean: float
    replicates: resampling.FloatArray


Amounts = Mapping[tuple[str, str], Amount]
"""Amount by method and phase, or by method and part of memory."""


@dataclass(frozen=True)
class Claim:
    """One statement of the theory about two methods, with the measured ratio and its 95 % interval."""

    what: str
    first: str
    relation: str
    """`=`, `<` or `>`, between first and second."""
    second: str
    ratio: float
    low: float
    high: float

    @property
    def found(self) -> str:
        """Finding: `HELD`; `no difference shown` if a difference is predicted; or that the measurement contradicts."""
        level = self.low <= 1 <= self.high
        if self.relation == "=":
            return HELD if level else "not equal"
        if level:
            return NO_DIFFERENCE
        return HELD if (self.low > 1) == (self.relation == ">") else "the other way round"


def terms_of(comparison: Comparison, method: str) -> tuple[str, ...] | None:
    """Terms of a method by its kind; None for a kind that is not in the paper's table."""
    for record in comparison.records:
        kind = record.method.get("type")
        if record.row["method"] == method and kind:
            options = record.method.get("options")
            cached = isinstance(options, dict) and options.get("cached")
            return TERMS.get("iisan-cached" if cached and kind == "iisan" else str(kind))
    return None


def amounts(comparison: Comparison) -> dict[tuple[str, str], Amount]:
    """Measurements of each method: the phases of a step in seconds and the parts of the account in bytes."""
    found: dict[tuple[str, str], Amount] = {}
    for method in comparison.methods:
        found |= {(method, phase): amount for phase, amount in _times(comparison, method)}
        found |= {(method, f"{part} bytes"): amount for part, amount in _memory(comparison, method)}
    return found


def _times(comparison: Comparison, method: str) -> Iterator[tuple[str, Amount]]:
    cells = list(by_seed(comparison.records, method).values())
    measured = [phase for phase in _PHASES if cells and all(steps[phase].notna().any() for _, steps in cells)]
    if not measured:
        return
    means = np.mean([steps[measured].fillna(0.0).mean().to_numpy() for _, steps in cells], axis=0)
    replicates = resampling.over_seeds([resampled_means(record, steps, measured) for record, steps in cells])
    for place, phase in enumerate(measured):
        yield phase, Amount(float(means[place]), replicates[:, place])


def _memory(comparison: Comparison, method: str) -> Iterator[tuple[str, Amount]]:
    records = {
        int(record.row.get("seed") or 0): record for record in comparison.records if _has_account(record, method)
    }
    if not records:
        return
    rows = np.array([[records[seed].memory[part] for part in _PARTS] for seed in sorted(records)], dtype=np.float64)
    replicates = resampling.over_seeds([np.tile(row, (resampling.RESAMPLES, 1)) for row in rows])
    for place, part in enumerate(_PARTS):
        yield part, Amount(float(rows[:, place].mean()), replicates[:, place])


def _has_account(record: Record, method: str) -> bool:
    whole = all(isinstance(record.memory.get(part), int | float) for part in _PARTS)
    return record.row["method"] == method and record.ok and whole


def claims(comparison: Comparison, measured: Amounts) -> list[Claim]:
    """Statements of the theory about the methods of a comparison, as far as their terms were measured."""
    known = {method: terms for method in comparison.methods if (terms := terms_of(comparison, method))}
    found = list(_term_by_term(known, measured))
    found += _totals(known, measured, "time of a step", _STEP, _TIME)
    found += _totals(known, measured, "peak memory", f"{_PEAK} bytes", _MEMORY)
    return found


def _term_by_term(known: Mapping[str, tuple[str, ...]], measured: Amounts) -> Iterator[Claim]:
    """Statements on each term of each method against the same term of `fft`."""
    base = known.get(BASELINE, ())
    for method, terms in known.items():
        for own, other in zip(terms, base, strict=False) if method != BASELINE else ():
            what = f"{own}, {_MEASURED[own][1]}" if own == other else f"{own} against {other}, {_MEASURED[other][1]}"
            places = ((method, _place(own)), (BASELINE, _place(other)))
            yield from _claim(what, method, "=" if own == other else "<", BASELINE, measured, places)


def _place(term: str) -> str:
    name = _MEASURED[term][0]
    return f"{name} bytes" if term.upper() in ("MW", "A") else name


def _totals(
    known: Mapping[str, tuple[str, ...]], measured: Amounts, what: str, place: str, part: slice
) -> Iterator[Claim]:
    """Statements on whole steps or peaks: a method with more terms in capitals costs more, with as many the same."""
    levels: dict[int, list[str]] = {}
    for method, terms in known.items():
        levels.setdefault(sum(term.isupper() for term in terms[part]), []).append(method)
    ordered = [levels[level] for level in sorted(levels, reverse=True)]
    for members in ordered:
        for other in members[1:]:
            yield from _claim(what, members[0], "=", other, measured, ((members[0], place), (other, place)))
    for above, below in pairwise(ordered):
        for first, second in product(above, below):
            yield from _claim(what, first, ">", second, measured, ((first, place), (second, place)))


def _claim(
    what: str, first: str, relation: str, second: str, measured: Amounts, places: Sequence[tuple[str, str]]
) -> Iterator[Claim]:
    mine, theirs = (measured.get(place) for place in places)
    if mine is None or theirs is None or not theirs.mean or not theirs.replicates.all():
        return
    low, high = resampling.interval(mine.replicates / theirs.replicates)
    yield Claim(what, first, relation, second, mine.mean / theirs.mean, float(low), float(high))


def section(comparison: Comparison) -> str:
    """Tables of the terms and of the statements that the measurement does not confirm."""
    measured = amounts(comparison)
    if not measured:
        return "Neither the phases of a step nor an account of memory were recorded."
    tables = _time_table(comparison, measured), _memory_table(comparison, measured)
    text = [_LEGEND, of_eager_steps(comparison), *tables, _findings(claims(comparison, measured))]
    unknown = [method for method in comparison.methods if terms_of(comparison, method) is None]
    if unknown:
        text.append(f"The table of the IISAN paper has no terms for {listing([escape(method) for method in unknown])}.")
    return "\n\n".join(part for part in text if part)


_LEGEND = (
    "Capitals are terms of the backbones, lower-case letters are terms of the small modules: forward pass (FP, fp), "
    "backward pass (BP, bp), weight update (WU, wu), weights (MW, mw), activations (A, a). The terms are those of the "
    "table in the IISAN paper; the figures are means over steps and seeds, with the ratio to fft in brackets. A step "
    "has one backward pass and one update: if the backbones are part of them, one figure contains BP and bp, or WU and "
    "wu. Modules inside a backbone are timed with it. A cell is empty if the method does not have the term or it was "
    "not measured."
)


def _time_table(comparison: Comparison, measured: Amounts) -> str:
    if not any((method, _STEP) in measured for method in comparison.methods):
        return ""
    header = ["Method", "Theory", "Backbones forward", "Rest forward", "Backward", "Update", "Step"]
    rows = _rows(comparison, measured, _TIME, _PHASES, lambda value: f"{number(1000 * value)} ms")
    return table(header, rows, numbers_from=2)


def _memory_table(comparison: Comparison, measured: Amounts) -> str:
    if not any((method, f"{_PEAK} bytes") in measured for method in comparison.methods):
        return ""
    names = {"parameters": "Weights", _PEAK: "Peak"}
    header = ["Method", "Theory", *(names.get(part, part.capitalize()) for part in _PARTS)]
    rows = _rows(comparison, measured, _MEMORY, tuple(f"{part} bytes" for part in _PARTS), size)
    return table(header, rows, numbers_from=2)


def _rows(
    comparison: Comparison, measured: Amounts, part: slice, columns: Sequence[str], words: Any
) -> list[list[str]]:
    rows = []
    for method in comparison.methods:
        if not any((method, column) in measured for column in columns):
            continue
        terms = terms_of(comparison, method)
        cells = [_cell(measured.get((method, column)), measured.get((BASELINE, column)), words) for column in columns]
        rows.append([escape(method), " + ".join(terms[part]) if terms else "", *cells])
    return rows


def _cell(amount: Amount | None, base: Amount | None, words: Any) -> str:
    if amount is None:
        return ""
    text = str(words(amount.mean))
    return (
        f"{text} ({ratio(amount.mean, base.mean)})" if base is not None and base.mean and amount is not base else text
    )


def _findings(claims: Sequence[Claim]) -> str:
    """Number of statements that the measurement confirms, and a table of the others."""
    if not claims:
        return "Fewer than two methods of the paper's table were measured."
    held = [claim for claim in claims if claim.found == HELD]
    text = (
        f"The measurement confirms {len(held)} of the {len(claims)} statements of the theory about these methods. The "
        "interval of a ratio is a 95 % bootstrap interval over steps and seeds. Bytes are exact and vary with the seed "
        "alone, so with one seed equal means equal to the byte."
    )
    if len(held) == len(claims):
        return text
    rows = [
        [
            escape(claim.what),
            f"{escape(claim.first)} {claim.relation.replace('<', '&lt;').replace('>', '&gt;')} {escape(claim.second)}",
            claim.found,
            f"{ratio(claim.ratio, 1)} ({ratio(claim.low, 1)} to {ratio(claim.high, 1)})",
        ]
        for claim in claims
        if claim not in held
    ]
    return f"{text} Statements that are not confirmed:\n\n" + table(
        ["Term", "Theory", "Found", "Measured: first to second"], rows, numbers_from=3
    )
