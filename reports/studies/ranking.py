"""Study: average ranks of methods over several datasets (Demsar, Journal of Machine Learning Research 7, 2006)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import friedmanchisquare, rankdata, studentized_range

from reports.analysis.comparison import Comparison
from reports.analysis.resampling import LEVEL
from reports.analysis.titles import differing
from reports.figures.drawing import rendered
from reports.figures.style import INK, NotDrawn, Styles, new_figure, short
from reports.sections.accuracy import p_value
from reports.studies.study import Grid, Study, accuracy_of, alike
from reports.text import count

STEM = "ranks"
FEWEST_DATASETS = 5
"""Smallest number of datasets for a test; with fewer it has little power and its chi-square form does not hold."""
FEWEST_METHODS = 3


@dataclass(frozen=True)
class Ranking:
    """Average ranks over datasets, with the results of the tests; rank 1 is the most accurate."""

    methods: tuple[str, ...]
    ranks: NDArray[np.float64]
    """Mean rank over datasets, shape (methods,); equal accuracies share their mean rank."""
    datasets: int
    p: float | None
    """p of the Friedman test that all methods are alike; None with too few methods or datasets."""
    difference: float | None
    """Critical difference of Nemenyi's test at the 5 % level; None with too few methods or datasets."""


def rank(accuracy: Mapping[str, Sequence[float]]) -> Ranking:
    """Rank methods by their accuracies on the same datasets, and test whether they differ."""
    values = np.array(list(accuracy.values()), dtype=np.float64)
    k, n = values.shape
    ranks = rankdata(-values, axis=0).mean(axis=1)
    if n < FEWEST_DATASETS or k < FEWEST_METHODS:
        return Ranking(tuple(accuracy), ranks, n, None, None)
    alike = bool((values == values[0]).all())  # on every dataset, so the test is not defined
    p = 1.0 if alike else float(friedmanchisquare(*values).pvalue)
    return Ranking(tuple(accuracy), ranks, n, p, critical_difference(k, n))


def critical_difference(k: int, n: int) -> float:
    """Critical difference of k average ranks over n datasets in Nemenyi's test at the 5 % level."""
    q = float(studentized_range.ppf(1 - LEVEL, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def by_dataset(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Groups of comparisons that differ in the data alone."""
    return [group for group in alike(comparisons, ("dataset", "dataset_seed", "dataset_digest")) if len(group) > 1]


def study(group: Sequence[Comparison], title: str, stem: str, styles: Styles) -> Study:
    """Compare methods over datasets: HR@10, average ranks, and the tests of their differences."""
    shared = [m for m in group[0].methods if all(comparison.value(m, "hr@10") is not None for comparison in group)]
    ranking = (
        rank({m: [float(comparison.value(m, "hr@10") or 0.0) for comparison in group] for m in shared})
        if shared
        else None
    )
    ranks = {} if ranking is None else dict(zip(ranking.methods, ranking.ranks.tolist(), strict=True))
    methods = sorted(
        dict.fromkeys(m for comparison in group for m in comparison.methods), key=lambda m: ranks.get(m, math.inf)
    )
    header = [
        "Method",
        "Average rank",
        *(f"HR@10: {name}" for name in differing([comparison.title for comparison in group])),
    ]
    rows = [
        [m, f"{ranks[m]:.2f}" if m in ranks else "", *(accuracy_of(comparison, m) for comparison in group)]
        for m in methods
    ]
    drawing = rendered(
        stem,
        "Average ranks and the critical difference",
        "Rank 1 is the most accurate. A bar joins methods without a difference in Nemenyi's test at the 5 % level.",
        lambda: _figure(ranking, styles),
    )
    return Study(title, [Grid(stem, header, rows), _answer(ranking)], [drawing])


def _answer(ranking: Ranking | None) -> str:
    if ranking is None:
        return "No method has an accuracy on every dataset, so no method is ranked."
    if ranking.p is None or ranking.difference is None:
        return f"No test is made: {_too_few(ranking)}."
    finding = (
        "at least two of the methods differ"
        if ranking.p < LEVEL
        else "no difference shown between any of the methods, and gaps between bars may be chance"
    )
    return (
        f"Friedman's test over {count(ranking.datasets)} datasets and {count(len(ranking.methods))} methods: p "
        f"{'' if ranking.p < 0.001 else '= '}{p_value(ranking.p)}: {finding}. Nemenyi's critical difference is "
        f"{ranking.difference:.2f} ranks. Generated shops with different seeds come from one generator: findings "
        "over them hold for such shops, not for other kinds of data."
    )


def _too_few(ranking: Ranking) -> str:
    if ranking.datasets < FEWEST_DATASETS:
        return f"{count(ranking.datasets)} datasets are too few: a test of ranks needs at least {FEWEST_DATASETS}"
    return f"a test of ranks needs at least {FEWEST_METHODS} methods that ended ok on every dataset"


def cliques(ranks: Sequence[float], difference: float) -> list[tuple[float, float]]:
    """Longest intervals of ranks that are within the critical difference and contain at least two methods."""
    ordered = sorted(ranks)
    found: list[tuple[float, float]] = []
    for place, low in enumerate(ordered):
        within = [high for high in ordered[place:] if high - low <= difference]
        if len(within) > 1 and not (found and found[-1][1] >= within[-1]):
            found.append((low, within[-1]))
    return found


def _figure(ranking: Ranking | None, styles: Styles) -> Figure:
    if ranking is None:
        raise NotDrawn("no method has an accuracy on every dataset")
    if ranking.difference is None:
        raise NotDrawn(_too_few(ranking))
    k = len(ranking.methods)
    joined = cliques(ranking.ranks.tolist(), ranking.difference)
    half = math.ceil(k / 2)
    start = 0.45 + 0.22 * len(joined)
    inches = 1.0 + start + 0.3 * half
    figure = new_figure(inches)
    margin = min(0.04 + 0.0115 * (max(len(short(method)) for method in ranking.methods) + 6), 0.38)
    axes = figure.add_axes((margin, 0, 1 - 2 * margin, 1))
    axes.set_axis_off()
    axes.set_xlim(1, k)
    axes.set_ylim(-start - 0.3 * half, 1.0)
    axes.plot([1, k], [0, 0], color=INK, lw=1.2, clip_on=False)
    for tick in range(1, k + 1):
        axes.plot([tick, tick], [0, 0.07], color=INK, lw=1.2, clip_on=False)
        axes.annotate(str(tick), (tick, 0.1), ha="center", va="bottom")
    axes.plot([1, 1 + ranking.difference], [0.55, 0.55], "|-", color=INK, lw=1.6, ms=8, clip_on=False)
    axes.annotate(f"critical difference {ranking.difference:.2f}", (1, 0.65), va="bottom")
    order = np.argsort(ranking.ranks, kind="stable")
    for place, index in enumerate(order.tolist()):
        on_left = place < half
        depth = -start - 0.3 * (place if on_left else k - 1 - place)
        value, color = float(ranking.ranks[index]), styles[ranking.methods[index]].color
        edge = 1.0 if on_left else float(k)
        axes.plot([value, value, edge], [0, depth, depth], color=color, lw=1.3, clip_on=False)
        axes.annotate(
            f"{short(ranking.methods[index])}  {value:.2f}", (edge, depth), (-5 if on_left else 5, 0),
            textcoords="offset points", ha="right" if on_left else "left", va="center", color=color,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    for place, (low, high) in enumerate(joined):
        depth = -0.25 - 0.2 * place
        axes.plot([low - 0.03, high + 0.03], [depth, depth], color=INK, lw=4, solid_capstyle="round", clip_on=False)
    return figure
