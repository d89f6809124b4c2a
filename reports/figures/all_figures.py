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


def _with_limit(caption: str, comparison: Comparison) -> str:
    drawn, known = len(comparison.drawn), len(comparison.methods)
    if drawn == known:
        return caption
    return f"{caption} Only {drawn} of {known} methods are drawn: the ones with the lowest TPME."


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
