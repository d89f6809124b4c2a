"""All figures of a comparison, in their order in the report."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from reports.analysis.comparison import Comparison
from reports.analysis.tuning_costs import costs
from reports.figures import bars, curves, stacked_bars, weight_triangle
from reports.figures.accuracy_tpme import MOST_NAMED, accuracy_against_tpme
from reports.figures.drawing import Drawing, rendered
from reports.figures.style import Styles
from reports.figures.tuning_curve import best_so_far


def draw(comparison: Comparison, styles: Styles) -> list[Drawing]:
    """Draw all figures of a comparison; a figure that cannot be drawn has a reason instead."""
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


def _with_limit(caption: str, comparison: Comparison) -> str:
    drawn, known = len(comparison.drawn), len(comparison.methods)
    if drawn == known:
        return caption
    return f"{caption} Only {drawn} of {known} methods are drawn: the ones with the lowest TPME."


FIGURES: tuple[tuple[str, str, str, Callable[[Comparison, Styles], Figure]], ...] = (
    (
        "accuracy-tpme",
        "Accuracy against TPME",
        "Higher is more accurate, further left is cheaper. Bars are 95 % intervals, small dots are single seeds. The "
        "grey line is the Pareto front: no method is both more accurate and cheaper than a method on it. With more "
        f"than {MOST_NAMED} methods, only methods on the front are named.",
        accuracy_against_tpme,
    ),
    ("costs", "Time, memory and parameters", "Bars are means over the seeds that ended ok.", bars.costs),
    (
        "learning",
        "Validation HR@10 against seconds of training",
        "Thick lines are means over seeds, thin lines are single seeds.",
        curves.over_seconds,
    ),
    (
        "learning-flops",
        "Validation HR@10 against floating-point operations of training",
        "The FLOPs are those of the forward and backward pass of a step of median size, times the number of steps.",
        curves.over_flops,
    ),
    (
        "learning-energy",
        "Validation HR@10 against energy of training",
        "The energy that the driver reports for the whole training is spread evenly over its seconds.",
        curves.over_energy,
    ),
    (
        "memory",
        "Parts of the peak memory",
        "Bars are the account of live tensors at the peak of a probe step, which is always eager; hatched bars are the "
        "prediction without running the step. A black line is the figure of the driver or the allocator, if the table "
        "uses it.",
        stacked_bars.memory,
    ),
    (
        "step-times",
        "Time of a training step",
        "Boxes are the quartiles with the median, whiskers reach to the 5th and 95th percentile, dots are steps "
        "beyond them.",
        bars.step_times,
    ),
    (
        "phases",
        "Where the time of a step goes",
        "Backbone is the forward pass of the backbones, forward is the forward pass of all other modules.",
        stacked_bars.phases,
    ),
    (
        "weights",
        "Which method is first under which weights",
        "Each point of the triangle is a weighting of time, parameters and memory; at a corner one of them counts "
        "alone. The regions and their shares are exact.",
        weight_triangle.weights,
    ),
)

TUNING = (
    "tuning",
    "Best validation HR@10 against trials of tuning",
    "Each line is the best validation HR@10 so far, after each trial of the search for the options of a method.",
    best_so_far,
)
"""Figure that is drawn only if options were tuned."""

STEMS = (*(stem for stem, *_ in FIGURES), TUNING[0])
"""Beginnings of the names of the figure files."""

_OF_ALL = (accuracy_against_tpme, weight_triangle.weights)
"""Figures that show every method, without the limit on rows."""
