"""Placement of labels in figures, so that no label covers another one, a point, a bar or a line.

A label of a point takes the best of 24 places around the point: one that covers little and lies near the point.

The library adjustText (1.4.0) was tried instead, in nine settings of its forces, start positions and obstacles, on 8
points with interval bars in one corner of a scatter. Its labels covered 3 to 8 markers and 5 to 10 bars, while the
placement of this module covers no marker and 1 bar. The one setting of adjustText that covered fewer markers put the
labels 58 points away from them. The library also took 4 to 35 times as long.

Labels at the ends of curves move along one axis alone, so scipy's isotonic regression places them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from scipy.optimize import isotonic_regression

from reports.figures.accuracy_axis import edge_label
from reports.figures.style import SOFT, Styles, short

LEGEND_COLUMNS = 4
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def marker_at(place: int) -> str:
    """Marker of the series at a place, counted from 0; after ten series the markers repeat."""
    return _MARKERS[place % len(_MARKERS)]


def marks_legend(figure: Figure, names: Sequence[str], colors: Sequence[str]) -> None:
    """Add a legend above the axes: the marker of each series with its name."""
    handles = [
        Line2D([], [], ls="", marker=marker_at(place), color=color, label=short(name, 40))
        for place, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    figure.legend(handles=handles, loc="upper center", ncols=LEGEND_COLUMNS, frameon=False)


class Box(NamedTuple):
    """Rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y1 - self.y0

    def shared(self, other: Box) -> float:
        """Area in common with another box, in square pixels."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    texts: Sequence[str],
    colors: Sequence[str],
    bars: Sequence[tuple[float, float]],
    lines: Mapping[str, float],
    steps: Sequence[tuple[float, float]] = (),
) -> None:
    """Label points and horizontal lines so that no label covers another label, point, bar or line, if possible.

    The limits of the axes must be final. Each label takes the cheapest of 24 places around its point; a label at some
    distance gets a thin line to its point.

    Args:
        axes: Axes with the points.
        points: Points in data coordinates.
        texts: Label of each point.
        colors: Colour of each label.
        bars: Lower and upper end of the vertical bar through each point, in data coordinates.
        lines: Heights of the horizontal lines by their names, in data coordinates. The name of one out of range stands
            at the edge, with an arrow.
        steps: Corners of a line of horizontal and vertical steps, from left to right, in data coordinates.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    unit = figure.dpi / 72
    places: list[tuple[float, float]] = [tuple(axes.transData.transform(point)) for point in points]
    bottom, top = axes.get_ylim()
    heights = [axes.transData.transform((0, height))[1] for height in lines.values() if bottom <= height <= top]
    frame = Box(*axes.get_window_extent().extents)
    taken = [Box(x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit) for x, y in places]
    for (x, _), ends in zip(points, bars, strict=True):
        (left, low), (_, high) = axes.transData.transform([(x, end) for end in ends])
        taken.append(Box(left - 2 * unit, low, left + 2 * unit, high))
    for (x0, y0), (x1, y1) in pairwise([axes.transData.transform(corner) for corner in steps]):
        taken += [Box(x0, y0 - unit, x1, y0 + unit), Box(x1 - unit, min(y0, y1), x1 + unit, max(y0, y1))]
    for text, height in lines.items():
        taken.append(_label_line(axes, edge_label(text, height, bottom, top), height, taken, unit))
    for place, point, text, color in zip(places, points, texts, colors, strict=True):
        label = axes.annotate(
            text, point, (0, 0), textcoords="offset points", color=color, fontweight="bold", va="center", ha="center"
        )
        label.set_path_effects([Stroke(linewidth=2.5, foreground="white"), Normal()])
        extent = Box(*label.get_window_extent().extents)
        best = min(
            _candidates(extent.width / unit, extent.height / unit),
            key=lambda offset: _cost(offset, place, extent, unit, taken, heights, frame),
        )
        label.xyann = best
        taken.append(_moved(extent, best, place, unit))
        if max(abs(best[0]) - extent.width / unit / 2, abs(best[1]) - extent.height / unit / 2) > 12:
            # The line ends at the nearest edge of the text, so that it does not run through the text.
            aside, above = (
                math.copysign(max(abs(way) - side / unit / 2, 0), way)
                for way, side in zip(best, (extent.width, extent.height), strict=True)
            )
            axes.annotate(
                "",
                point,
                (aside, above),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": color, "lw": 0.7, "shrinkA": 0, "shrinkB": 3},
            )


def _label_line(axes: Axes, text: str, height: float, taken: Sequence[Box], unit: float) -> Box:
    """Label a horizontal line where the label covers least, out of five places; returns the box of the label.

    A line above the axes has its label at the upper edge, one below them at the lower edge.
    """
    low, high = axes.get_ylim()
    above = -12 if height > high else 3
    label = axes.annotate(
        text,
        (1, min(max(height, low), high)),
        (-4, above),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        color=SOFT,
        fontsize=9.5,
    )
    extent = Box(*label.get_window_extent().extents)
    room = axes.get_window_extent().width - extent.width - 8 * unit

    def moved(share: float) -> Box:
        return Box(extent.x0 - share * room, extent.y0, extent.x1 - share * room, extent.y1)

    best = min((0.0, 1.0, 0.5, 0.75, 0.25), key=lambda share: sum(moved(share).shared(other) for other in taken))
    label.xyann = (-4 - best * room / unit, above)
    return moved(best)


def _candidates(width: float, height: float) -> list[tuple[float, float]]:
    """Offsets of the centre of a label from its point, in typographic points, the near ones first."""
    places = []
    for distance in (9.0, 21.0, 35.0):
        aside, above = width / 2 + distance, height / 2 + distance
        places += [(aside, 0.0), (-aside, 0.0), (0.0, above), (0.0, -above)]
        places += [(sx * aside, sy * above * 0.8) for sy in (1, -1) for sx in (1, -1)]
    return places


def _moved(extent: Box, offset: tuple[float, float], place: tuple[float, float], unit: float) -> Box:
    x, y = place[0] + offset[0] * unit, place[1] + offset[1] * unit
    return Box(x - extent.width / 2, y - extent.height / 2, x + extent.width / 2, y + extent.height / 2)


def _cost(
    offset: tuple[float, float],
    place: tuple[float, float],
    extent: Box,
    unit: float,
    taken: Sequence[Box],
    lines: Sequence[float],
    frame: Box,
) -> float:
    box = _moved(extent, offset, place, unit)
    aside, above = abs(offset[0]) - extent.width / unit / 2, abs(offset[1]) - extent.height / unit / 2
    cost = 0.002 * (max(aside, 0) + max(above, 0))
    shared = [area for other in taken if (area := box.shared(other)) > 0]
    cost += len(shared) + sum(shared) / (extent.width * extent.height)
    cost += sum(0.7 for line in lines if box.y0 - 2 * unit < line < box.y1 + 2 * unit)
    outside = max(frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1, 0.0)
    return float(cost + outside / 10)


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights apart until neighbours keep a gap, with the least sum of squared moves (isotonic regression).

    Args:
        heights: Positions along one axis, in any order.
        gap: Least distance of two neighbours, in the unit of the heights.

    Returns:
        The new height of each entry of `heights`, in the same order; their mean stays the same.
    """
    order = np.argsort(heights, kind="stable")
    offsets = gap * np.arange(len(order))
    moved = np.empty(len(order))
    moved[order] = isotonic_regression(np.asarray(heights, dtype=np.float64)[order] - offsets).x + offsets
    return [float(height) for height in moved]


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], styles: Styles) -> None:
    """Write the names of curves on the right of the axes, moved apart, each with a thin line to the end of its curve.

    Args:
        axes: Axes with the curves.
        ends: Last point of each curve in data coordinates, by method.
        styles: Style of each method.
    """
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    gap = min(0.045, 1 / len(ends)) * (high - low)
    heights = spread_out([y for _, y in ends.values()], gap)
    lift = max(0.0, low + gap / 2 - min(heights)) - max(0.0, max(heights) - (high - gap / 2))
    for (method, (x, y)), height in zip(ends.items(), heights, strict=True):
        color = styles[method].color
        axes.plot([x, right], [y, height + lift], color=color, lw=0.6, alpha=0.6, ls=(0, (2, 2)))
        axes.annotate(short(method), (1, height + lift), (4, 0), xycoords=("axes fraction", "data"), va="center",
                      textcoords="offset points", color=color, fontweight="bold", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)
    axes.set_xlim(right=right)
