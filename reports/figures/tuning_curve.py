"""Figure of tuning: the best validation HR@10 so far over trials."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reports.analysis.comparison import Comparison
from reports.analysis.tuning_costs import costs
from reports.figures.accuracy_axis import show_accuracy
from reports.figures.labels import label_ends
from reports.figures.style import NotDrawn, Styles, new_figure, short


def best_so_far(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of the best validation HR@10 so far over trials, a line per method that has a successful trial.

    Raises:
        NotDrawn: no trial has a validation HR@10.
    """
    curves = {
        method: one.curve for method, one in costs(comparison).items() if method in comparison.drawn and one.curve
    }
    if not curves:
        raise NotDrawn("no trial has a validation HR@10")
    figure = new_figure(4.9)
    longest = max(len(short(method)) for method in curves)
    axes = figure.add_axes((0.1, 0.12, 0.885 - 0.0118 * max(longest, 6), 0.86))
    for method, curve in curves.items():
        style = styles[method]
        axes.plot(*zip(*curve, strict=True), color=style.color, lw=1.8, drawstyle="steps-post", marker=style.marker,
                  ms=6 * style.size, mec="white", mew=0.6)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trials, including failed ones")
    values = [value for curve in curves.values() for _, value in curve]
    show_accuracy(axes, values, "best validation HR@10 so far", random_weights=comparison.random_weights)
    label_ends(axes, {method: curve[-1] for method, curve in curves.items()}, styles)
    return figure
