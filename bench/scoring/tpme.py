"""TPME, the trade-off of time, parameters and memory (arXiv 2404.02059): pure functions on numbers.

Each of time, trainable parameters and memory is min-max normalised over the methods of a comparison, and
`TPME = a_time * t + a_params * p + a_memory * m` with weights that sum to 1. Lower is better. Min-max makes a
score depend on the other methods in the table, so `leave_one_out` and `weight_sensitivity` show how stable an order is.
Minima and maxima can be fixed by a reference table instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.scoring.method_table import read_table as table_of
from bench.utils.errors import UserError, naming

Table = Mapping[str, Mapping[str, float]] | pd.DataFrame
"""Time, params and memory by method; or a data frame with the columns method, time, params, memory."""

COLUMNS = ("time", "params", "memory")
WEIGHTS = (0.45, 0.10, 0.45)
GRID_STEP = 0.05

_TIE = 1e-12  # scores that differ by less are equal; the difference is rounding
_SUM_TOLERANCE = 1e-6  # so that 0.333333,0.333333,0.333334 is accepted and 0.33,0.33,0.33 is not

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class LeftOut:
    """Scores and order of a comparison without one of its methods."""

    left_out: str
    scores: dict[str, float]
    order: tuple[str, ...]
    """The other methods, best first; empty if no score can be computed without the one left out."""
    turned: tuple[tuple[str, str], ...]
    """Pairs (a, b) whose order is reversed: a is ahead of b in the whole comparison, and b ahead of a here."""
    reason: str = ""
    """Reason why no score can be computed; "" if the scores can be computed."""

    @property
    def preserved(self) -> bool | None:
        """True if the other methods keep their order; None if no score can be computed."""
        return None if self.reason else not self.turned


@dataclass(frozen=True)
class Sensitivity:
    """Stability of the order on a grid over the simplex of the three weights."""

    step: float
    points: int
    first: dict[str, float]
    """Share of grid points at which each method is first; tied methods share a point. The shares sum to 1."""
    order_kept: float
    """Share of grid points at which no pair is in reverse order compared with the given weights."""


def tpme(table: Table, weights: Sequence[float] = WEIGHTS, reference: Table | None = None) -> dict[str, float]:
    """Score every method of a comparison, in the table's order; lower is better.

    Time, parameters and memory may be in any units, if all methods have the same. Scores are in [0, 1], except for
    methods outside the minima and maxima of a `reference` table.

    Raises:
        UserError: weights are negative or do not sum to 1; there is a single method and no reference; a column has the
            same value for all methods; a value is missing, negative or not finite; a method is repeated.
    """
    names, shares = normalised(table, reference)
    return dict(zip(names, (shares @ checked_weights(weights)).tolist(), strict=True))


def tpme_of_many(costs: FloatArray, weights: Sequence[float] = WEIGHTS, reference: Table | None = None) -> FloatArray:
    """Scores of many comparisons of the same methods, each normalised on its own unless a reference is given.

    Args:
        costs: (n, K, 3), time, parameters and memory of K methods in n comparisons.
        weights: As in `tpme`.
        reference: As in `tpme`.

    Returns:
        Scores, (n, K); NaN for a comparison in which a column has the same value for all methods.
    """
    if reference is None:
        low, high = costs.min(axis=1, keepdims=True), costs.max(axis=1, keepdims=True)
    else:
        low, high = _bounds(*_costs(reference))
    with np.errstate(invalid="ignore"):
        return np.asarray(((costs - low) / (high - low)) @ checked_weights(weights))


def order_of(scores: Mapping[str, float]) -> tuple[str, ...]:
    """Methods from the lowest score to the highest; ties keep the order of the mapping."""
    return tuple(sorted(scores, key=lambda name: scores[name]))


def leave_one_out(table: Table, weights: Sequence[float] = WEIGHTS, reference: Table | None = None) -> list[LeftOut]:
    """Score the comparison again without each of its methods in turn.

    Raises:
        UserError: as `tpme`, or there are fewer than three methods, so that fewer than two would remain.
    """
    scores = tpme(table, weights, reference)
    if len(scores) < 3:
        raise UserError(f"leaving one method out needs at least three methods, the table has {len(scores)}")
    names, costs = _costs(table)
    rows = {name: dict(zip(COLUMNS, row, strict=True)) for name, row in zip(names, costs.tolist(), strict=True)}
    return [_without(name, rows, scores, weights, reference) for name in names]


def _without(
    name: str,
    rows: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, float],
    weights: Sequence[float],
    reference: Table | None,
) -> LeftOut:
    others = {other: row for other, row in rows.items() if other != name}
    try:
        remaining = tpme(others, weights, reference)
    except UserError as error:
        return LeftOut(name, {}, (), (), str(error))
    before = np.array([scores[other] for other in remaining])
    after = np.array(list(remaining.values()))
    turned = np.argwhere(_ahead(before) & _ahead(after).T)
    labels = list(remaining)
    return LeftOut(name, remaining, order_of(remaining), tuple((labels[a], labels[b]) for a, b in turned))


def _ahead(scores: FloatArray) -> NDArray[np.bool_]:
    """True at [a, b] if a is ahead of b and not tied with it; (K, K)."""
    return np.asarray(scores[:, None] < scores[None, :] - _TIE)


def weight_sensitivity(
    table: Table, weights: Sequence[float] = WEIGHTS, reference: Table | None = None, step: float = GRID_STEP
) -> Sensitivity:
    """Score the comparison at every point of a grid over the simplex of weights, corners and edges included.

    Args:
        table: The comparison.
        weights: The weights whose order is compared with the order at every grid point.
        reference: Fixes minima and maxima, as in `tpme`.
        step: Distance of neighbouring weights; 1 must be a multiple of it. The default of 0.05 gives 231 points.

    Raises:
        UserError: as `tpme`, or the step does not divide 1.
    """
    n_steps = round(1 / step) if step > 0 else 0
    if not math.isclose(n_steps * step, 1.0, abs_tol=_SUM_TOLERANCE):
        raise UserError(f"grid step {step:g} does not divide 1")
    names, shares = normalised(table, reference)
    base = shares @ checked_weights(weights)
    grid = np.array([(i, j, n_steps - i - j) for i in range(n_steps + 1) for j in range(n_steps + 1 - i)]) / n_steps
    scores = grid @ shares.T
    leads = scores <= scores.min(axis=1, keepdims=True) + _TIE
    first = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
    kept = float(_keeps_order(base, scores).mean())
    return Sensitivity(step, len(grid), dict(zip(names, first.tolist(), strict=True)), kept)


def _keeps_order(base: FloatArray, scores: FloatArray) -> NDArray[np.bool_]:
    """True for each row of `scores` (G, K) that reverses no pair of methods that is ordered in `base` (K,)."""
    ranked = np.argsort(base)
    better = np.searchsorted(base[ranked], base[ranked] - _TIE)  # number of methods strictly ahead of each
    worst_so_far = np.maximum.accumulate(scores[:, ranked], axis=1)
    worst_ahead = np.where(better > 0, worst_so_far[:, np.maximum(better - 1, 0)], -np.inf)
    return np.asarray((scores[:, ranked] >= worst_ahead - _TIE).all(axis=1))


def score(path: Path, weights: Sequence[float] = WEIGHTS, reference: Path | None = None) -> list[dict[str, Any]]:
    """Score the table of a CSV file: rows of method, tpme, time, params and memory, the lowest TPME first.

    Raises:
        UserError: as `read_table`, `read_reference` and `tpme`; the message names the file.
    """
    checked_weights(weights)
    table = read_table(path)
    pinned = None if reference is None else read_reference(reference, table["method"])
    with naming(path):
        scores = tpme(table, weights, pinned)
    rows = {str(row["method"]): row for row in table.to_dict("records")}
    return [
        {"method": name, "tpme": scores[name], **{column: float(rows[name][column]) for column in COLUMNS}}
        for name in order_of(scores)
    ]


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with the columns method, time, params and memory.

    Raises:
        UserError: as `bench.scoring.method_table.read_table`.
    """
    return table_of(path, COLUMNS)


def read_reference(path: Path, methods: Iterable[str]) -> pd.DataFrame:
    """Read the reference table that fixes minima and maxima for a comparison of `methods`.

    Raises:
        UserError: as `read_table`; the table has no range; a method has no row, so that minima and maxima were taken
            without it and its place between them means nothing.
    """
    table = read_table(path)
    with naming(path):
        _bounds(*_costs(table))
    known = set(table["method"])
    for method in methods:
        if method not in known:
            raise UserError(f"{path}: no row for method {method!r}; a reference table needs a row for every method")
    return table


def normalised(table: Table, reference: Table | None = None) -> tuple[list[str], FloatArray]:
    """Names of the methods, and their time, parameters and memory as shares of the range, (K, 3).

    Raises:
        UserError: as `tpme`.
    """
    names, costs = _costs(table)
    return names, _normalise(names, costs, reference)


def _costs(table: Table) -> tuple[list[str], FloatArray]:
    """Names of the methods, and their costs as an array of shape (K, 3)."""
    rows: list[tuple[str, Mapping[str, object]]]
    if isinstance(table, pd.DataFrame):
        missing = [column for column in ("method", *COLUMNS) if column not in table.columns]
        if missing:
            raise UserError(f"the table has no column {missing[0]}")
        rows = [(str(row["method"]), {str(key): row[key] for key in COLUMNS}) for row in table.to_dict("records")]
    else:
        rows = list(table.items())
    names = [name for name, _ in rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"method {name!r} is in the table twice")
    costs = [[_cost(name, row, column) for column in COLUMNS] for name, row in rows]
    return names, np.array(costs).reshape(len(names), len(COLUMNS))


def _cost(name: str, row: Mapping[str, object], column: str) -> float:
    value = row.get(column)
    if value is None or value is pd.NA:
        raise UserError(f"method {name!r}: {column} is missing")
    if not isinstance(value, Real):
        raise UserError(f"method {name!r}: {column} is {value!r}, not a number")
    if not math.isfinite(value) or value < 0:
        raise UserError(f"method {name!r}: {column} is {float(value)}, not a finite number of at least 0")
    return float(value)


def _normalise(names: Sequence[str], costs: FloatArray, reference: Table | None) -> FloatArray:
    """Min-max normalised costs, (K, 3), over the methods or over a reference table."""
    if reference is None:
        low, high = _bounds(names, costs)
    else:
        if not names:
            raise UserError("the table has no methods")
        try:
            low, high = _bounds(*_costs(reference))
        except UserError as error:
            raise UserError(f"reference table: {error}") from None
    return np.asarray((costs - low) / (high - low))


def _bounds(names: Sequence[str], costs: FloatArray) -> tuple[FloatArray, FloatArray]:
    if not names:
        raise UserError("the table has no methods")
    if len(names) == 1:
        raise UserError(f"TPME compares methods, and {names[0]!r} is alone in the table")
    low, high = costs.min(axis=0), costs.max(axis=0)
    for column, least, most in zip(COLUMNS, low, high, strict=True):
        if least == most:
            raise UserError(f"{column} is {least:g} for every method: a zero range cannot be normalised")
    return low, high


def checked_weights(weights: Sequence[float]) -> FloatArray:
    """The weights of time, parameters and memory as an array of shape (3,).

    Raises:
        UserError: the weights are not three, one is negative or not finite, or their sum is not 1.
    """
    if len(weights) != len(COLUMNS):
        raise UserError(f"weights: {len(weights)} given, expected three ({', '.join(COLUMNS)})")
    for column, weight in zip(COLUMNS, weights, strict=True):
        if not math.isfinite(weight) or weight < 0:
            raise UserError(f"weights: the weight of {column} is {weight:g}; it must be a finite number of at least 0")
    total = math.fsum(weights)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise UserError(f"weights: {', '.join(f'{weight:g}' for weight in weights)} sum to {total:g}, not to 1")
    return np.asarray(weights, dtype=np.float64)
