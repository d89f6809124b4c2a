"""The figure of accuracy against TPME, with the Pareto front."""

from __future__ import annotations

from matplotlib.figure import Figure

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import pareto_front, trade_off
from reports.figures.accuracy_axis import drawn_accuracy, reference_lines, show_accuracy
from reports.figures.labels import label_points
from reports.figures.style import FAINT, NotDrawn, Styles, new_figure, short

MOST_NAMED = 16
"""Largest number of points that are all labelled; with more, only methods of the Pareto front are."""


def accuracy_against_tpme(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of HR@10 over TPME, with intervals, single seeds, and the floor and the ceiling as lines or at the edge.

    Raises:
        NotDrawn: the TPME cannot be computed, or no HR@10 was measured.
    """
    try:
        scores = trade_off(comparison)
    except UserError as error:
        raise NotDrawn(f"TPME cannot be computed: {error}") from None
    spreads = {method: spread for method in scores if (spread := comparison.spread(method, "hr@10"))}
    if not spreads:
        raise NotDrawn("no HR@10 was measured")
    figure = new_figure(5.2)
    axes = figure.add_axes((0.098, 0.115, 0.877, 0.86))
    front = pareto_front({method: (scores[method], spread.mean) for method, spread in spreads.items()})
    if not comparison.random_weights:
        axes.plot(*zip(*front.values(), strict=True), color=FAINT, lw=1.4, drawstyle="steps-post", zorder=1)
    for method, spread in spreads.items():
        style = styles[method]
        if spread.low is not None and spread.high is not None:
            axes.vlines(scores[method], max(spread.low, 0), min(spread.high, 1), color=style.color, lw=1.2, alpha=0.45)
        cells = comparison.results[comparison.results["method"] == method]
        axes.plot(cells["tpme"], cells["hr@10"], "o", color=style.color, ms=3, alpha=0.45, mew=0)
        axes.plot(scores[method], spread.mean, style.marker, color=style.color, ms=9 * style.size, mec="white", mew=0.8)
    lines = reference_lines(comparison)
    show_accuracy(axes, drawn_accuracy(comparison, spreads), "test HR@10", references=lines,
                  random_weights=comparison.random_weights)  # fmt: skip
    # Scores lie outside 0 to 1 only if a reference table sets the range.
    axes.set_xlim(min(0.0, *scores.values()) - 0.06, max(1.0, *scores.values()) + 0.06)
    axes.set_xlabel("TPME: time, parameters and memory together, 0 to 1; further left is cheaper")
    named = list(spreads if len(spreads) <= MOST_NAMED else front)
    label_points(
        axes,
        [(scores[method], spreads[method].mean) for method in named],
        [short(method) for method in named],
        [styles[method].color for method in named],
        [
            (max(spreads[name].low or spreads[name].mean, 0), min(spreads[name].high or spreads[name].mean, 1))
            for name in named
        ],
        lines,
        () if comparison.random_weights else list(front.values()),
    )
    return figure
