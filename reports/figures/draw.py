"""The figures of a report, drawn from records without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import pareto_front, trade_off
from reports.analysis.tuning_costs import costs
from reports.figures import bars, curves, stacked_bars, style, weight_triangle
from reports.figures.style import DPI, FAINT, RC, NotDrawn, Styles, accuracy_label, short
from reports.figures.tuning_curve import best_so_far

MOST_NAMED = 16
"""A cloud of more points than this has no room for all their names."""


@dataclass(frozen=True)
class Drawing:
    """A figure as it goes into the report: either as PNG and SVG, or the reason why there is none."""

    stem: str
    title: str
    caption: str
    png: bytes | None
    svg: bytes | None = None
    reason: str = ""


def draw(comparison: Comparison, styles: Styles) -> list[Drawing]:
    """All figures of a comparison; one that cannot be drawn says why."""
    figures = (*FIGURES, TUNING) if costs(comparison) else FIGURES
    return [_drawing(stem, title, caption, make, comparison, styles) for stem, title, caption, make in figures]


def _drawing(
    stem: str,
    title: str,
    caption: str,
    make: Callable[[Comparison, Styles], Figure],
    comparison: Comparison,
    styles: Styles,
) -> Drawing:
    name = f"{stem}-{comparison.slug}" if comparison.slug else stem
    return rendered(
        name, title, caption if make in _OF_ALL else _with_limit(caption, comparison), lambda: make(comparison, styles)
    )


def rendered(stem: str, title: str, caption: str, make: Callable[[], Figure]) -> Drawing:
    """A figure as PNG and SVG, or the reason why there is none."""
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        try:
            figure = make()
        except NotDrawn as reason:
            return Drawing(stem, title, caption, None, reason=str(reason))
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
    return Drawing(stem, title, caption, png.getvalue(), svg.getvalue())


def _with_limit(caption: str, comparison: Comparison) -> str:
    drawn, known = len(comparison.drawn), len(comparison.methods)
    if drawn == known:
        return caption
    return f"{caption} Only {drawn} of {known} methods are drawn: the ones with the lowest TPME."


def accuracy_against_tpme(comparison: Comparison, styles: Styles) -> Figure:
    """HR@10 over TPME, with intervals, single seeds, and the floor and ceiling as lines."""
    try:
        scores = trade_off(comparison)
    except UserError as error:
        raise NotDrawn(f"TPME cannot be computed: {error}") from None
    spreads = {method: spread for method in scores if (spread := comparison.spread(method, "hr@10"))}
    if not spreads:
        raise NotDrawn("no HR@10 was measured")
    figure = style.new_figure(5.2)
    axes = figure.add_axes((0.085, 0.115, 0.89, 0.86))
    front = pareto_front({method: (scores[method], spread.mean) for method, spread in spreads.items()})
    if not comparison.random_weights:
        axes.plot(*zip(*front.values(), strict=True), color=FAINT, lw=1.4, drawstyle="steps-post", zorder=1)
    for method, spread in spreads.items():
        look = styles[method]
        if spread.low is not None and spread.high is not None:
            axes.vlines(scores[method], max(spread.low, 0), min(spread.high, 1), color=look.color, lw=1.2, alpha=0.45)
        cells = comparison.results[comparison.results["method"] == method]
        axes.plot(cells["tpme"], cells["hr@10"], "o", color=look.color, ms=3, alpha=0.45, mew=0)
        axes.plot(scores[method], spread.mean, look.marker, color=look.color, ms=9 * look.size, mec="white", mew=0.8)
    lines = _reference_lines(comparison)
    # Beyond 0 and 1 only where a reference table pins the range.
    axes.set_xlim(min(0.0, *scores.values()) - 0.06, max(1.0, *scores.values()) + 0.06)
    tops = [min(spread.high or spread.mean, 1.0) for spread in spreads.values()]
    axes.set_ylim(0, 1.12 * max([*tops, *lines.values(), 1e-3]))
    for height in lines.values():
        axes.axhline(height, color=FAINT, lw=1, ls=(0, (5, 3)))
    axes.set_xlabel("TPME: time, parameters and memory together, 0 to 1; further left is cheaper")
    axes.set_ylabel(accuracy_label("test HR@10", comparison.random_weights))
    named = list(spreads if len(spreads) <= MOST_NAMED else front)
    style.label_points(
        axes,
        [(scores[method], spreads[method].mean) for method in named],
        [short(method) for method in named],
        [styles[method].color for method in named],
        [
            (max(spreads[name].low or spreads[name].mean, 0), min(spreads[name].high or spreads[name].mean, 1))
            for name in named
        ],
        {f"{name} {height:.3f}": height for name, height in lines.items()},
    )
    return figure


def _reference_lines(comparison: Comparison) -> dict[str, float]:
    names = {"popularity": "popularity", "Bayes ceiling": "bayes"}
    lines = {label: comparison.reference(name, "hr@10") for label, name in names.items()}
    return {label: height for label, height in lines.items() if height is not None}


FIGURES: tuple[tuple[str, str, str, Callable[[Comparison, Styles], Figure]], ...] = (
    (
        "accuracy-tpme",
        "Accuracy against TPME",
        "Further up is more accurate, further left cheaper. Bars are 95 % intervals, small dots single seeds; the "
        "grey line is the Pareto front, beyond which no method is both more accurate and cheaper. Of more than "
        f"{MOST_NAMED} methods, those of the front are named.",
        accuracy_against_tpme,
    ),
    ("costs", "Time, memory and parameters", "Means over the seeds that ended ok.", bars.costs),
    (
        "learning",
        "Validation HR@10 against seconds of training",
        "A thick line is the mean over seeds, thin lines are single seeds.",
        curves.over_seconds,
    ),
    (
        "learning-flops",
        "Validation HR@10 against floating-point operations of training",
        "Forward and backward pass of a step of median size, as counted, times the steps.",
        curves.over_flops,
    ),
    (
        "learning-energy",
        "Validation HR@10 against energy of training",
        "What the driver counted over the whole training, spread evenly over its seconds.",
        curves.over_energy,
    ),
    (
        "memory",
        "What the memory is taken by",
        "The account of live tensors at the peak of a probe step (eager always); hatched what was predicted without "
        "running it. A black line is what a driver or an allocator says, where that is the figure in the table.",
        stacked_bars.memory,
    ),
    (
        "step-times",
        "Time of a training step",
        "Boxes are quartiles with the median, whiskers reach to the 5th and 95th percentile, dots are steps beyond.",
        bars.step_times,
    ),
    (
        "phases",
        "Where the time of a step goes",
        "Backbone is the forward pass of the backbones, forward that of everything else.",
        stacked_bars.phases,
    ),
    (
        "weights",
        "Which method is first under which weights",
        "Each point of the triangle is a weighting of time, parameters and memory, a corner one of them alone; the "
        "parts and their shares are exact.",
        weight_triangle.weights,
    ),
)

TUNING = (
    "tuning",
    "Best validation HR@10 against trials of tuning",
    "What the best trial so far reached, after each trial of the search for a method's options.",
    best_so_far,
)
"""Only where options were searched for."""

STEMS = (*(stem for stem, *_ in FIGURES), TUNING[0])
"""How the files of figures begin."""

_OF_ALL = (accuracy_against_tpme, weight_triangle.weights)
"""The figures that have room for every method."""
