"""The axis of accuracy, alike in every figure that has one: its range, its label, and floors and ceilings.

An axis starts at 0 unless all values lie in a narrow band, which would then be hidden at the top of a nearly empty
figure. A floor or a ceiling that is far from the values does not widen the axis; it is named at the edge, with an arrow
that points to where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from reports.analysis.comparison import Comparison
from reports.figures.style import FAINT

NARROW = 0.5
"""Smallest value, as a share of the largest, from which on the axis does not start at 0."""

_MARGIN = 0.1
"""Space beyond the values, as a share of what they span."""
_LEAST = 0.02
"""Least space beyond the values, so that values that hardly differ do not look far apart."""
_NEAR = 0.25
"""Distance of a floor or a ceiling, as a share of the axis, up to which the axis is extended to show it."""


def accuracy_range(values: Iterable[float], references: Iterable[float] = ()) -> tuple[float, float]:
    """Lower and upper end of an axis of accuracy.

    Args:
        values: All that is drawn: means, ends of intervals, single seeds; at least one.
        references: Floors and ceilings.
    """
    shown = list(values)
    highest = max(shown)
    lowest = min(shown) if min(shown) >= NARROW * highest else 0.0
    margin = max(_MARGIN * (highest - lowest), _LEAST)
    low, high = max(lowest - margin, 0.0), highest + margin
    near = _NEAR * (high - low)
    for value in references:
        if low - near <= value < low:
            low = max(value - margin, 0.0)
        elif high < value <= high + near:
            high = value + margin
    return low, high


def show_accuracy(
    axes: Axes,
    values: Iterable[float],
    label: str,
    *,
    references: Mapping[str, float] | None = None,
    random_weights: bool = False,
    along: Literal["x", "y"] = "y",
) -> None:
    """Set the range and the label of an axis of accuracy, and draw the floors and ceilings that lie in its range.

    Args:
        axes: Axes of the figure.
        values: As in `accuracy_range`.
        label: Name of the accuracy; a note is added if the axis does not start at 0 or accuracy has no meaning.
        references: Floors and ceilings by name; the ones out of range are left to `edge_label`.
        random_weights: True if the backbones were initialised at random.
        along: Direction of the axis.
    """
    known = dict(references or {})
    low, high = accuracy_range(values, known.values())
    notes = ["random backbones: no meaning"] * random_weights + ["axis not from 0"] * (low > 0)
    words = f"{label} ({'; '.join(notes)})" if notes else label
    inside = [value for value in known.values() if low <= value <= high]
    axis = axes.yaxis if along == "y" else axes.xaxis
    axis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))  # no tick needs more than three decimals
    if along == "y":
        axes.set_ylim(low, high)
        axes.set_ylabel(words)
        for value in inside:
            axes.axhline(value, color=FAINT, lw=1, ls=(0, (5, 3)))
    else:
        axes.set_xlim(low, high)
        axes.set_xlabel(words)
        for value in inside:
            axes.axvline(value, color=FAINT, lw=1, ls=(0, (5, 3)))


def edge_label(name: str, value: float, low: float, high: float, arrows: str = "↓↑") -> str:
    """Name and value of a floor or a ceiling, with an arrow if it lies below or above the range of the axis."""
    arrow = arrows[0] if value < low else arrows[1] if value > high else ""
    return f"{arrow} {name} {value:.3f}".strip()


def drawn_accuracy(comparison: Comparison, methods: Iterable[str]) -> list[float]:
    """Test HR@10 of methods as it is drawn: their means, single seeds, and ends of intervals within 0 to 1."""
    values = []
    for method in methods:
        spread = comparison.spread(method, "hr@10")
        if spread is None:
            continue
        cells = comparison.results.loc[comparison.results["method"] == method, "hr@10"].dropna()
        ends = [end for end in (spread.low, spread.high) if end is not None]
        values += [spread.mean, *map(float, cells), *(min(max(end, 0.0), 1.0) for end in ends)]
    return values


def reference_lines(comparison: Comparison) -> dict[str, float]:
    """HR@10 of popularity and of the Bayes ceiling by name, as far as the dataset gives them."""
    names = {"popularity": "popularity", "Bayes ceiling": "bayes"}
    lines = {label: comparison.reference(name, "hr@10") for label, name in names.items()}
    return {label: height for label, height in lines.items() if height is not None}
