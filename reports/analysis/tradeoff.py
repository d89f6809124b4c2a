"""TPME and PSCP of a comparison, and what drawing steps and seeds anew does to the TPME."""

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
"""Methods whose forward pass is that of the backbones and a head alone; the first that is there is the yardstick of
"extra" inference."""


def comparable_costs(comparison: Comparison) -> dict[str, dict[str, float]]:
    """The costs of the methods that a TPME of this comparison compares, in the means over seeds.

    Raises:
        UserError: the methods have their memory from more than one source; steps were compiled and have none.
    """
    if comparison.unmetered:
        raise UserError(
            "nothing measured the memory of compiled steps; on a CPU there is the account alone, of an eager step"
        )
    return {str(method): row for method, row in comparable(comparison.summary).items()}


def trade_off(comparison: Comparison) -> dict[str, float]:
    """TPME of the methods of a comparison, on the means over seeds.

    Raises:
        UserError: it cannot be computed; the line says why.
    """
    return comparison.options.tpme_of(comparable_costs(comparison))


def first_shares(comparison: Comparison) -> dict[str, float]:
    """Share of the triangle of weights in which each method is first; methods with the same costs share theirs.

    Raises:
        UserError: as `trade_off`.
    """
    return {
        method: region.share / len(region.methods)
        for region in first_regions(comparable_costs(comparison), comparison.options.reference)
        for method in region.methods
    }


def pareto_front(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The methods that no other beats at one of cost and accuracy without being worse at the other.

    Args:
        points: Per method its cost, the lower the better, and its accuracy, the higher the better.

    Returns:
        Those of the front with their points, from the cheapest to the most accurate.
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
    """What steps and seeds that are drawn anew do to the TPME of a comparison."""

    intervals: Mapping[str, tuple[float, float]]
    """95 % per method."""
    first: Mapping[str, float]
    """Share of the draws in which a method has the lowest score."""
    level: frozenset[frozenset[str]]
    """Pairs whose difference has an interval that holds 0: no difference shown."""
    seeds: int
    """The fewest that a method has; with one, only its steps are drawn."""

    def level_with(self, method: str) -> list[str]:
        """The methods that a method cannot be told apart from."""
        return [other for other in self.intervals if frozenset((method, other)) in self.level]


def score_spread(comparison: Comparison) -> ScoreSpread | None:
    """Bootstrap of the TPME; None where some method has left no steps.

    A draw takes seeds with replacement, the same for all methods, and within each seed blocks of neighbouring steps.
    The seconds of an epoch move with the mean of the steps drawn; parameters and memory are those of the seeds drawn.

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
    scores = scores[~np.isnan(scores).any(axis=1)]  # draws of seeds in which a cost is the same for all methods
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
    """Replicated time, parameters and memory of one cell, (resamples, 3)."""
    exact = [np.full_like(epochs, float(record.row[COST_COLUMNS[name]])) for name in ("params", "memory")]
    return np.stack([epochs, *exact], axis=1)


@dataclass(frozen=True)
class PenalisedScores:
    """PSCP of a comparison: performance is test HR@10 in percent, memory 10^9 bytes."""

    scores: Mapping[str, pscp.Penalised]
    yardstick: str
    """The method whose forward FLOPs count as those of inference without any method."""


def penalised(comparison: Comparison) -> PenalisedScores:
    """PSCP of the methods that have all figures.

    Extra inference TFLOPs are the forward FLOPs of the probe step (the largest batch of the first epoch, the same for
    all methods) beyond those of `UNADAPTED`; a method that computes less has none, and no reward for it.

    Raises:
        UserError: it cannot be computed; the line says why.
    """
    if comparison.random_weights:
        raise UserError("the backbones were initialised at random, so there is no performance to penalise")
    yardstick = next((method for method in UNADAPTED if _runs_backbones(comparison, method)), None)
    base = comparison.value(yardstick, "flops_forward") if yardstick else None
    if yardstick is None or base is None:
        raise UserError(
            f"neither {' nor '.join(UNADAPTED)} ran its backbones with FLOPs counted, so what a method adds to "
            "inference is unknown"
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
    """Whether a method ended ok and computed the hidden states in every step."""
    mine = [record for record in comparison.records if record.row["method"] == method and record.ok]
    return bool(mine) and not any(_cached(record) for record in mine)


def _cached(record: Record) -> bool:
    options = record.method.get("options")
    return bool(options.get("cached")) if isinstance(options, dict) else False


def turned_pairs(scores: Mapping[str, float], penalised: Mapping[str, pscp.Penalised]) -> list[tuple[str, str]]:
    """Pairs (a, b): a is ahead of b by TPME, and b of a by PSCP. In the order of TPME."""
    both = [method for method in tpme.order_of(scores) if method in penalised]
    return [
        (a, b) for a, b in combinations(both, 2) if scores[a] < scores[b] and penalised[a].score < penalised[b].score
    ]
