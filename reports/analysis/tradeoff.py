"""TPME and PSCP of a comparison, and a bootstrap of the TPME over steps and seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bench.scoring import pscp, tpme
from bench.scoring.weight_regions import first_regions
from bench.utils.errors import UserError
from reports.analysis import resampling
from reports.analysis.comparison import BASELINE, Comparison
from reports.analysis.resampled_steps import by_seed, resampled_epochs
from reports.analysis.tables import COST_COLUMNS, comparable
from reports.load.run_folders import Record

UNADAPTED = ("frozen", BASELINE)
"""Methods whose forward pass is that of the backbones and a head alone. The first one in the comparison is the
reference for extra inference."""


def comparable_costs(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Costs, as means over seeds, of the methods that the TPME of this comparison compares.

    Raises:
        UserError: the memory of the methods has more than one source, or the steps were compiled and no meter measured
            their memory.
    """
    if comparison.unmetered:
        raise UserError(
            "no meter measured the memory of compiled steps; on a CPU there is only the account of an eager step"
        )
    return {str(method): row for method, row in comparable(comparison.summary).items()}


def trade_off(comparison: Comparison) -> dict[str, float]:
    """TPME by method, from the means over seeds.

    Raises:
        UserError: the TPME cannot be computed; the message says why.
    """
    return comparison.options.tpme_of(comparable_costs(comparison))


def first_shares(comparison: Comparison) -> dict[str, float]:
    """Share of the triangle of weights in which each method is first; methods with the same costs split a share.

    Raises:
        UserError: as `trade_off`.
    """
    return {
        method: region.share / len(region.methods)
        for region in first_regions(comparable_costs(comparison), comparison.options.reference)
        for method in region.methods
    }


def pareto_front(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Methods of the Pareto front: no other is better in cost or accuracy without being worse in the other.

    Args:
        points: Cost (lower is better) and accuracy (higher is better) by method.

    Returns:
        The methods of the front with their points, from the cheapest to the most accurate.
    """
    front: dict[str, tuple[float, float]] = {}
    highest = -math.inf
    for method, (cost, accuracy) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if accuracy > highest or (cost, accuracy) in front.values():
            front[method] = (cost, accuracy)
        highest = max(highest, accuracy)
    return front


@dataclass(frozen=True)
class ScoreSpread:
    """Bootstrap of the TPME of a comparison over steps and seeds."""

    intervals: Mapping[str, tuple[float, float]]
    """95 % interval by method."""
    first: Mapping[str, float]
    """Share of the draws in which a method has the lowest score, by method."""
    level: frozenset[frozenset[str]]
    """Pairs of methods with no difference shown: the interval of their difference contains 0."""
    seeds: int
    """Smallest number of seeds of a method; with one seed, only steps are drawn."""

    def level_with(self, method: str) -> list[str]:
        """Methods for which no difference from the given method is shown."""
        return [other for other in self.intervals if frozenset((method, other)) in self.level]


def score_spread(comparison: Comparison) -> ScoreSpread | None:
    """Bootstrap of the TPME; None if a cell of a method has no steps.

    A draw takes seeds with replacement, the same for all methods, and within each seed blocks of neighbouring steps.
    The seconds of an epoch are scaled by the mean of the drawn steps; parameters and memory are those of the drawn
    seeds.

    Raises:
        UserError: as `trade_off`.
    """
    methods = list(trade_off(comparison))
    replicates = []
    fewest = []
    for method in methods:
        per_seed = [
            _costs_of(record, resampled_epochs(record, steps))
            for record, steps in by_seed(comparison.records, method).values()
            if all(record.row.get(column) is not None for column in COST_COLUMNS.values())
        ]
        if len(per_seed) < comparison.seeds(method):
            return None
        fewest.append(len(per_seed))
        replicates.append(resampling.over_seeds(per_seed))
    scores = tpme.tpme_of_many(np.stack(replicates, axis=1), comparison.options.weights, comparison.options.reference)
    scores = scores[~np.isnan(scores).any(axis=1)]  # NaN: all methods have the same cost in this draw
    if not len(scores):
        return None
    low, high = resampling.interval(scores)
    level = set()
    for first in range(len(methods) - 1):
        below, above = resampling.interval(scores[:, first : first + 1] - scores[:, first + 1 :])
        for second in np.flatnonzero((below <= 0) & (above >= 0)):
            level.add(frozenset((methods[first], methods[first + 1 + second])))
    leads = scores <= scores.min(axis=1, keepdims=True)
    first_share = (leads / leads.sum(axis=1, keepdims=True)).mean(axis=0)
    return ScoreSpread(
        intervals=dict(zip(methods, zip(low.tolist(), high.tolist(), strict=True), strict=True)),
        first=dict(zip(methods, first_share.tolist(), strict=True)),
        level=frozenset(level),
        seeds=min(fewest),
    )


def _costs_of(record: Record, epochs: resampling.FloatArray) -> resampling.FloatArray:
    """Replicated time, parameters and memory of one cell, shape (resamples, 3)."""
    exact = [np.full_like(epochs, float(record.row[COST_COLUMNS[name]])) for name in ("params", "memory")]
    return np.stack([epochs, *exact], axis=1)


@dataclass(frozen=True)
class PenalisedScores:
    """PSCP of a comparison, with test HR@10 in percent as performance and memory in units of 10^9 bytes."""

    scores: Mapping[str, pscp.Penalised]
    yardstick: str
    """Method whose forward FLOPs are the reference: inference beyond them is extra."""


def penalised(comparison: Comparison) -> PenalisedScores:
    """PSCP of the methods that have all its figures.

    Extra inference is the forward TFLOPs of the probe step (the largest batch of the first epoch, the same for all
    methods) beyond those of the first method of `UNADAPTED`; it is 0 for a method that computes less.

    Raises:
        UserError: the PSCP cannot be computed; the message says why.
    """
    if comparison.random_weights:
        raise UserError("the backbones were initialised at random, so there is no performance to penalise")
    yardstick = next((method for method in UNADAPTED if _runs_backbones(comparison, method)), None)
    base = comparison.value(yardstick, "flops_forward") if yardstick else None
    if yardstick is None or base is None:
        raise UserError(
            f"neither {' nor '.join(UNADAPTED)} ran its backbones with FLOPs counted, so the extra inference of "
            "a method is unknown"
        )
    columns = ("hr@10", "flops_forward", COST_COLUMNS["params"], COST_COLUMNS["memory"])
    table = {}
    for method in comparable_costs(comparison):
        known = [value for column in columns if (value := comparison.value(method, column)) is not None]
        if len(known) == len(columns):
            performance, flops, params, memory = known
            table[method] = {
                "performance": 100 * performance,
                "params": params,
                "extra_tflops": max(flops - base, 0.0) / 1e12,
                "memory": memory / 1e9,
            }
    if not table:
        raise UserError("no method has all of HR@10, forward FLOPs, parameters and memory")
    return PenalisedScores(pscp.pscp(table, comparison.options.penalties), yardstick)


def _runs_backbones(comparison: Comparison, method: str) -> bool:
    """True if a method ended ok and computed the hidden states in every step."""
    mine = [record for record in comparison.records if record.row["method"] == method and record.ok]
    return bool(mine) and not any(_cached(record) for record in mine)


def _cached(record: Record) -> bool:
    options = record.method.get("options")
    return bool(options.get("cached")) if isinstance(options, dict) else False


def turned_pairs(scores: Mapping[str, float], penalised: Mapping[str, pscp.Penalised]) -> list[tuple[str, str]]:
    """Pairs (a, b) in opposite order, a ahead by TPME and b ahead by PSCP, in the order of TPME."""
    both = [method for method in tpme.order_of(scores) if method in penalised]
    return [
        (a, b) for a, b in combinations(both, 2) if scores[a] < scores[b] and penalised[a].score < penalised[b].score
    ]
