"""How figures look: one colour and one marker per method, everywhere, and labels that stay clear of one another."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from reports.text import visible

WIDTH_INCHES = 8.0
DPI = 160
"""1,280 pixels wide; shown at 800 px, a point of text is 1.4 pixels."""

INK = "#222222"
FAINT = "#8a8a8a"
SOFT = "#555555"
INK_ON_FILL = "#1a1a1a"
"""For text within coloured bars, which stays dark where `INK` turns light with the page."""

DECADES = 30.0
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""

RC: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.labelsize": 10.5,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "figure.dpi": DPI,
    "text.parse_math": False,  # a method called `a$b$` is no formula
    "svg.fonttype": "none",  # text that can be searched and edited
    "svg.hashsalt": "reports",  # the same records give the same bytes
}

# Okabe and Ito's palette, which the common kinds of colour blindness keep apart; its yellow is too pale on white.
_KNOWN = {
    "fft": ("#000000", "s"),
    "frozen": ("#7f7f7f", "o"),
    "bitfit": ("#CC79A7", "v"),
    "adapter": ("#E69F00", "^"),
    "lora": ("#0072B2", "D"),
    "prefix": ("#56B4E9", "P"),
    "iisan": ("#009E73", "X"),
    "iisan-cached": ("#D55E00", "*"),
}
_SPARE_COLORS = ("#332288", "#882255", "#999933", "#44AA99", "#661100", "#AA4499", "#117733")
_SPARE_MARKERS = ("p", "h", "d", "<", ">", "8")


class NotDrawn(Exception):
    """There is nothing to draw; the message says why, as part of a sentence."""


@dataclass(frozen=True)
class Style:
    """How a method is drawn."""

    color: str
    marker: str

    @property
    def size(self) -> float:
        """Factor that makes thin markers look as large as solid ones."""
        return {"*": 1.5, "P": 1.2, "X": 1.15}.get(self.marker, 1.0)


Styles = Mapping[str, Style]


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style per method: fixed for our own, and for others drawn from their name, so that it stays from run to run."""
    chosen: dict[str, Style] = {}
    for method in sorted(set(methods)):
        chosen[method] = Style(*_KNOWN[method]) if method in _KNOWN else _spare(method, set(chosen.values()))
    return chosen


def _spare(method: str, taken: set[Style]) -> Style:
    """The first free style from the place on that the name points to; colours are used up before markers."""
    start = zlib.crc32(method.encode())
    colors = [_SPARE_COLORS[(start + step) % len(_SPARE_COLORS)] for step in range(len(_SPARE_COLORS))]
    free = [Style(color, marker) for marker in _SPARE_MARKERS for color in colors]
    return next((style for style in free if style not in taken), free[0])


def on_dark(color: str) -> str:
    """The same hue (`#rrggbb`), as much lighter as it takes to stand out on a dark page; black turns white."""
    if color == "#000000":
        return "#e4e6e8"
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    for white in (step / 20 for step in range(21)):
        mixed = [part + white * (1 - part) for part in (red, green, blue)]
        if _luminance(mixed) >= _LIGHT_ENOUGH:
            break
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)


_LIGHT_ENOUGH = 0.24
"""Relative luminance that has a contrast of 4.5 to 1 with the page's dark ground (#1b1d20)."""


def _luminance(color: Sequence[float]) -> float:
    """Relative luminance of red, green and blue in 0 to 1, as the Web Content Accessibility Guidelines define it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def short(name: str, limit: int = 24) -> str:
    """A name that fits into a figure."""
    name = visible(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def accuracy_label(label: str, random_weights: bool) -> str:
    """What stands at an axis of accuracy."""
    return f"{label} (random backbones: no meaning)" if random_weights else label


def new_figure(height: float) -> Figure:
    """An empty figure of the usual width, which draws itself without a display."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


class Box(NamedTuple):
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def width(self) -> float:
        """From left to right."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """From bottom to top."""
        return self.y1 - self.y0

    def shared(self, other: Box) -> float:
        """The area in common with another."""
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
) -> None:
    """Write a text beside each point and on each line where it covers no other text, point, bar or line.

    Limits of the axes must be final. Each label takes the cheapest of 24 places around its point; one that had to move
    away gets a thin line to its point.

    Args:
        axes: Where the points are drawn.
        points: In data coordinates.
        texts: One per point.
        colors: One per point.
        bars: Lower and upper end of the vertical bar through each point, in data coordinates.
        lines: Horizontal lines by their text: heights in data coordinates.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    unit = figure.dpi / 72
    places: list[tuple[float, float]] = [tuple(axes.transData.transform(point)) for point in points]
    heights = [axes.transData.transform((0, height))[1] for height in lines.values()]
    frame = Box(*axes.get_window_extent().extents)
    taken = [Box(x - 6 * unit, y - 6 * unit, x + 6 * unit, y + 6 * unit) for x, y in places]
    for (x, _), ends in zip(points, bars, strict=True):
        (left, low), (_, high) = axes.transData.transform([(x, end) for end in ends])
        taken.append(Box(left - 2 * unit, low, left + 2 * unit, high))
    for text, height in lines.items():
        taken.append(_label_line(axes, text, height, taken, unit))
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
            # To the nearest edge of the text, not through it.
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
    """Write on a horizontal line: at its right end, its left end or in between, wherever least is covered."""
    label = axes.annotate(
        text,
        (1, height),
        (-4, 3),
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
    label.xyann = (-4 - best * room / unit, 3)
    return moved(best)


def _candidates(width: float, height: float) -> list[tuple[float, float]]:
    """Offsets of a label's centre from its point, in points: right, left, above and below, near ones first."""
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
    """Move heights apart so that neighbours keep at least a gap, each as little as a push of neighbours allows."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    groups: list[tuple[list[int], float]] = []  # members, and the height of the middle of the group
    for place in order:
        members, middle = [place], heights[place]
        while groups:
            below, centre = groups[-1]
            if middle - gap * (len(members) - 1) / 2 - (centre + gap * (len(below) - 1) / 2) >= gap:
                break
            groups.pop()
            members = below + members
            middle = sum(heights[member] for member in members) / len(members)
        groups.append((members, middle))
    moved = list(heights)
    for members, middle in groups:
        for rank, member in enumerate(members):
            moved[member] = middle + gap * (rank - (len(members) - 1) / 2)
    return moved
