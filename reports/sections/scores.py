"""Sections on the scores: robustness of the TPME, and PSCP beside the TPME."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.scoring import pscp, tpme
from bench.utils.errors import UserError
from reports.analysis import resampling
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import (
    PenalisedScores,
    ScoreSpread,
    comparable_costs,
    first_shares,
    penalised,
    score_spread,
    trade_off,
    turned_pairs,
)
from reports.sections.accuracy import NO_DIFFERENCE
from reports.text import count, escape, listing, number, table


def robustness(comparison: Comparison) -> str:
    """Tables that show whether the order by TPME holds with other steps, seeds and weights, and without each method."""
    try:
        scores, costs = trade_off(comparison), comparable_costs(comparison)
        spread = score_spread(comparison)
        first = first_shares(comparison)
        moved = tpme.weight_sensitivity(costs, comparison.options.weights, comparison.options.reference)
    except UserError as error:
        return f"TPME cannot be computed: {escape(error)}."
    order = tpme.order_of(scores)
    text = [_compared(comparison, scores, order), _spread_words(spread)]
    header = [
        "Method",
        "TPME",
        "95 % interval",
        "First in this share of the draws",
        NO_DIFFERENCE.capitalize() + " from",
    ]
    rows = [[escape(method), f"{scores[method]:.3f}", *_spread_cells(spread, method)] for method in order]
    share_of_weights = "First in this share of the weightings"
    text.append(
        table(
            [*header, share_of_weights],
            [[*row, f"{first[method]:.1%}"] for row, method in zip(rows, order, strict=True)],
        )
    )
    text.append(
        "The last column is the exact share of the triangle of all weightings of time, parameters and memory (see the "
        f"figure below). On a grid of {moved.points} weightings (step {moved.step:g}, with the corners), "
        f"{moved.order_kept:.1%} keep the whole order."
    )
    try:
        left = tpme.leave_one_out(costs, comparison.options.weights, comparison.options.reference)
        text.append(
            table(["Left out", "Order of the others kept", "Turned round"], [_left_out(entry) for entry in left], 3)
        )
    except UserError as error:
        text.append(f"The order without each method was not computed: {escape(error)}.")
    return "\n\n".join(text)


def _compared(comparison: Comparison, scores: dict[str, float], order: Sequence[str]) -> str:
    machine = [str(value) for value in comparison.results["machine"].dropna().unique()]
    weights = " / ".join(f"{weight:g}" for weight in comparison.options.weights)
    text = (
        f"Methods compared: {', '.join(escape(method) for method in scores)}. "
        f"Machine: {escape(machine[0]) if machine else 'unknown'}. "
        f"Weights: {weights} for time, parameters and memory. "
    )
    if comparison.options.reference is not None:
        pinned = ", ".join(escape(method) for method in comparison.options.reference)
        text += f"The minima and maxima are those of {escape(comparison.options.reference_name)} ({pinned}). "
    return f"{text}Order by TPME, best first: {' &lt; '.join(escape(method) for method in order)}."


def _spread_words(spread: ScoreSpread | None) -> str:
    if spread is None:
        return "A method has no steps (steps.csv), so the TPME has no interval."
    seeds = (
        "and of seeds, the same for all methods; with few seeds they are too narrow"
        if spread.seeds > 1
        else "of one seed; the variation between seeds is unknown"
    )
    return (
        f"The intervals are bootstrap intervals: {count(resampling.RESAMPLES)} draws of steps, in blocks of "
        f"neighbours, {seeds}. They do not cover a machine that was slower for one method than for another. "
        f"“{NO_DIFFERENCE.capitalize()}” means that the interval of the difference of two scores contains 0."
    )


def _spread_cells(spread: ScoreSpread | None, method: str) -> list[str]:
    if spread is None:
        return ["", "", ""]
    low, high = spread.intervals[method]
    level = ", ".join(escape(other) for other in spread.level_with(method))
    return [f"{low:.3f} to {high:.3f}", f"{spread.first[method]:.1%}", level]


def _left_out(entry: tpme.LeftOut) -> list[str]:
    if entry.preserved is None:
        return [escape(entry.left_out), "unknown", escape(entry.reason)]
    pairs = ", ".join(f"{escape(b)} before {escape(a)}" for a, b in entry.turned)
    return [escape(entry.left_out), "yes" if entry.preserved else "**no**", pairs]


def beside_pscp(comparison: Comparison) -> str:
    """PSCP of PEFT-Bench (arXiv 2511.21285), and the pairs of methods that PSCP and TPME order differently."""
    try:
        found = penalised(comparison)
    except UserError as error:
        return f"PSCP cannot be computed: {escape(error)}."
    try:
        scores = trade_off(comparison)
    except UserError:
        scores = {}
    return "\n\n".join(
        [_definition(comparison, found), _table(scores, found), _disagreement(comparison, scores, found)]
    )


def _definition(comparison: Comparison, found: PenalisedScores) -> str:
    settings = comparison.options.penalties
    constants = f"{settings.constants[0]:g} values, {settings.constants[1]:g} TFLOPs, {settings.constants[2]:g} GB"
    exponents = " / ".join(f"{exponent:g}" for exponent in settings.exponents)
    factors = [math.prod(one.penalties) for one in found.scores.values()]
    return (
        "PSCP (PEFT-Bench, arXiv 2511.21285) is test HR@10 in percent, multiplied by a penalty for each of trainable "
        "parameters, extra inference and peak memory: (1 + cost / constant) to the power of minus the exponent. Higher "
        f"is better. The constants are {constants}; the exponents are {exponents}. Extra inference is the FLOPs of the "
        "forward pass of the probe step (the largest batch of the first epoch) beyond those of "
        f"{escape(found.yardstick)}, at least 0. All penalties together reduce a score by {1 - max(factors):.2%} to "
        f"{1 - min(factors):.2%} in this comparison."
    )


def _table(scores: dict[str, float], found: PenalisedScores) -> str:
    by_tpme = [method for method in tpme.order_of(scores) if method in found.scores]
    by_pscp = list(pscp.order_of(found.scores))
    rows = []
    for method in by_pscp:
        one = found.scores[method]
        tpme_cells = [f"{scores[method]:.3f}", str(by_tpme.index(method) + 1)] if method in by_tpme else ["", ""]
        penalties = [f"{factor:.4f}" for factor in one.penalties]
        place = str(by_pscp.index(method) + 1)
        rows.append([escape(method), number(one.score), place, *tpme_cells, number(one.performance), *penalties])
    header = ["Method", "PSCP", "Place", "TPME", "Place", "HR@10 in %", "Parameters", "Inference", "Memory"]
    return table(header, rows)


def _disagreement(comparison: Comparison, scores: dict[str, float], found: PenalisedScores) -> str:
    both = [method for method in scores if method in found.scores]
    pairs = len(both) * (len(both) - 1) // 2
    if not pairs:
        return "Fewer than two methods have both scores, so the orders by TPME and PSCP cannot be compared."
    turned = turned_pairs(scores, found.scores)
    if not turned:
        return f"TPME and PSCP order all {pairs} pairs of methods alike."
    behind: dict[str, list[str]] = {}
    for ahead, other in turned:
        behind.setdefault(ahead, []).append(escape(other))
    words = "; ".join(f"{escape(method)} is ahead of {listing(others)} by TPME and behind by PSCP"
                      for method, others in behind.items())  # fmt: skip
    text = f"TPME and PSCP order {len(turned)} of {pairs} pairs of methods differently: {words}."
    tested = [difference for a, b in turned if (difference := comparison.tested(a, b))]
    if not tested:
        return text
    shown = sum(difference.shown for difference in tested)
    return f"{text} In {shown} of these pairs the paired test shows a difference in HR@10."
