"""Figure of the weights of the TPME: a triangle, divided into the regions in which each method is first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.path import Path
from matplotlib.patheffects import Normal, Stroke
from numpy.typing import NDArray

from bench.scoring.tpme import WEIGHTS
from bench.scoring.weight_regions import Region, first_regions
from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import comparable_costs, trade_off
from reports.figures.labels import spread_out
from reports.figures.style import FAINT, INK, SOFT, WIDTH_INCHES, NotDrawn, Styles, new_figure, short

FloatArray = NDArray[np.float64]

# Lengths are in inches, the unit in which the size of text is estimated.
_SIDE = 4.7
_LEFT, _BOTTOM = (WIDTH_INCHES - _SIDE) / 2, 0.62
_HEIGHT = 5.15
_CORNERS = np.array(
    [
        (_LEFT + _SIDE / 2, _BOTTOM + _SIDE * np.sqrt(3) / 2),  # time
        (_LEFT, _BOTTOM),  # parameters
        (_LEFT + _SIDE, _BOTTOM),  # memory
    ]
)
_LINE = 0.19
_LETTER = 0.088
_SPOTS = 40
"""Number of positions to try for a text, in each direction."""
_NARROW = 14
"""Largest length of a name beside the widest part of the triangle, in characters."""


def weights(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of the method with the lowest TPME for each weighting; the weights of this report are marked.

    Raises:
        NotDrawn: the TPME cannot be computed.
    """
    try:
        trade_off(comparison)
        regions = first_regions(comparable_costs(comparison), comparison.options.reference)
    except UserError as error:
        raise NotDrawn(f"TPME cannot be computed: {error}") from None
    figure = new_figure(_HEIGHT)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH_INCHES)
    axes.set_ylim(0, _HEIGHT)
    axes.set_axis_off()
    point = _place(np.array(comparison.options.weights))
    outside: list[tuple[FloatArray, str, str]] = []
    for region in regions:
        if region.share:
            outside += _region(axes, region, styles, point)
    _frame(axes)
    axes.plot(*point, "o", color="white", mec=INK, mew=1.6, ms=8, zorder=5)
    words = "\n".join(f"{weight:.3g} {name}" for weight, name in zip(comparison.options.weights, _NAMES, strict=True))
    usual = "the paper's weights" if tuple(comparison.options.weights) == WEIGHTS else "the weights chosen"
    outside.append((point, f"{usual}:\n{words}", INK))
    _outside(axes, outside)
    _never(axes, regions)
    return figure


_NAMES = ("time", "parameters", "memory")


def _place(weights: FloatArray) -> FloatArray:
    """Position of weights, shape (..., 3), in the figure, in inches, shape (..., 2)."""
    return np.asarray(weights @ _CORNERS)


def _region(axes: Axes, region: Region, styles: Styles, marked: FloatArray) -> list[tuple[FloatArray, str, str]]:
    """Fill a region and label it clear of the marked point; returns the label if it does not fit, else nothing."""
    corners = _place(region.corners)
    color = styles[region.methods[0]].color
    axes.add_patch(Polygon(corners, facecolor=color, alpha=0.5, edgecolor="none"))
    axes.add_patch(Polygon(corners, facecolor="none", edgecolor="white", lw=1.5))
    share = _percent(region.share)
    text = "\n".join([*map(short, region.methods), share])
    spot = _spot(corners, text, marked)
    if spot is None:
        return [(_centroid(corners), "\n".join([*(short(name, _NARROW) for name in region.methods), share]), color)]
    label = axes.text(spot[0], spot[1], text, ha="center", va="center", fontweight="bold", color=INK, zorder=4)
    label.set_path_effects([Stroke(linewidth=2.5, foreground="white", alpha=0.8), Normal()])
    return []


def _percent(share: float) -> str:
    if 0.9995 <= share < 1:
        return "more than 99.9%"
    return f"{share:.1%}" if share >= 0.0005 else "less than 0.1%"


def _centroid(corners: FloatArray) -> FloatArray:
    """Centroid of a polygon, from its corners, shape (corners, 2)."""
    following = np.roll(corners, -1, axis=0)
    cross = corners[:, 0] * following[:, 1] - following[:, 0] * corners[:, 1]
    return np.asarray(((corners + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum()))


def _spot(corners: FloatArray, text: str, marked: FloatArray) -> FloatArray | None:
    """Position closest to the centroid at which a text fits into a polygon; None if it does not fit."""
    lines = text.split("\n")
    half = np.array([max(map(len, lines)) * _LETTER, len(lines) * _LINE]) / 2
    box = half * np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    centre = _centroid(corners)
    steps = [np.linspace(*ends, _SPOTS) for ends in zip(corners.min(axis=0), corners.max(axis=0), strict=True)]
    spots = np.concatenate([[centre], np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)])
    outline = Path(np.concatenate([corners, corners[:1]]), closed=True)
    inside = outline.contains_points((spots[:, None] + box).reshape(-1, 2)).reshape(-1, len(box)).all(axis=1)
    fitting = spots[inside & (np.abs(spots - marked) > half + 0.1).any(axis=1)]
    return fitting[np.argmin(((fitting - centre) ** 2).sum(axis=1))] if len(fitting) else None


def _frame(axes: Axes) -> None:
    """Draw the edges, thin lines of equal weight and the labels of the corners."""
    for weight in (0.25, 0.5, 0.75):
        for first in range(3):
            ends = np.zeros((2, 3))
            ends[:, first] = weight
            ends[0, (first + 1) % 3] = ends[1, (first + 2) % 3] = 1 - weight
            axes.plot(*_place(ends).T, color="white", lw=0.8, alpha=0.6, zorder=2)
    axes.add_patch(Polygon(_CORNERS, facecolor="none", edgecolor=FAINT, lw=1.2, zorder=3))
    top, left, right = _CORNERS
    axes.text(top[0], top[1] + 0.08, "time alone", ha="center", va="bottom")
    axes.text(left[0], left[1] - 0.09, "parameters alone", ha="center", va="top")
    axes.text(right[0], right[1] - 0.09, "memory alone", ha="center", va="top")


def _outside(axes: Axes, labels: Sequence[tuple[FloatArray, str, str]]) -> None:
    """Write texts on the left or right of the triangle, each with a thin line to its position."""
    middle = _CORNERS[0, 0]
    for side in (-1, 1):
        mine = [label for label in labels if (1 if label[0][0] >= middle else -1) == side]
        if not mine:
            continue
        tallest = max(text.count("\n") + 1 for _, text, _ in mine)
        heights = spread_out([place[1] for place, _, _ in mine], (tallest + 0.6) * _LINE)
        floor = _BOTTOM + tallest * _LINE / 2
        lift = max(0.0, floor - min(heights))
        for (place, text, color), height in zip(mine, heights, strict=True):
            y = height + lift
            slope = max(0.0, min(1.0, (y - _BOTTOM) / (_CORNERS[0, 1] - _BOTTOM)))
            x = middle + side * (_SIDE / 2 * (1 - slope) + 0.3)
            axes.plot([place[0], x - side * 0.05], [place[1], y], color=color, lw=0.8, marker="o", ms=3, markevery=[0],
                      zorder=4)  # fmt: skip
            axes.text(x, y, text, ha="left" if side > 0 else "right", va="center", color=color, fontweight="bold",
                      zorder=5)  # fmt: skip


def _never(axes: Axes, regions: Sequence[Region]) -> None:
    """List the methods that are first under no weights."""
    names = [short(method) for region in regions if not region.share for method in region.methods]
    if names:
        lines = ["first under no weights:", *names[:12], *(["…"] if len(names) > 12 else [])]
        axes.text(0.25, _HEIGHT - 0.25, "\n".join(lines), ha="left", va="top", color=SOFT, fontsize=9.5)
