"""Appearance of the figures: sizes, colours, and one colour and marker per method in all figures."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.text import visible

WIDTH_INCHES = 8.0
DPI = 160
"""Dots per inch: figures are 1,280 pixels wide; shown at 800 pixels, a point of text is 1.4 pixels high."""

INK = "#222222"
FAINT = "#8a8a8a"
SOFT = "#555555"
INK_ON_FILL = "#1a1a1a"
"""Colour of text within coloured bars: it stays dark on a dark page, where `INK` turns light."""

DECADES = 30.0
"""Ratio of the largest to the smallest value from which on an axis is logarithmic."""

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
    "text.parse_math": False,  # a method called `a$b$` must not be read as a formula
    "svg.fonttype": "none",  # keeps text searchable and editable
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
    """A figure cannot be drawn; the message is the reason, as part of a sentence."""


@dataclass(frozen=True)
class Style:
    """Colour and marker of a method."""

    color: str
    marker: str

    @property
    def size(self) -> float:
        """Factor on the size of the marker that makes thin markers look as large as solid ones."""
        return {"*": 1.5, "P": 1.2, "X": 1.15}.get(self.marker, 1.0)


Styles = Mapping[str, Style]


def styles_of(methods: Iterable[str]) -> dict[str, Style]:
    """Style of each method: fixed for built-in methods, derived from the name for others, hence reproducible."""
    chosen: dict[str, Style] = {}
    for method in sorted(set(methods)):
        chosen[method] = Style(*_KNOWN[method]) if method in _KNOWN else _spare(method, set(chosen.values()))
    return chosen


def _spare(method: str, taken: set[Style]) -> Style:
    """First free style from a start that depends on the name; all colours are tried before the next marker."""
    start = zlib.crc32(method.encode())
    colors = [_SPARE_COLORS[(start + step) % len(_SPARE_COLORS)] for step in range(len(_SPARE_COLORS))]
    free = [Style(color, marker) for marker in _SPARE_MARKERS for color in colors]
    return next((style for style in free if style not in taken), free[0])


def on_dark(color: str) -> str:
    """Colour (`#rrggbb`) of the same hue, just light enough for a dark page; black becomes nearly white."""
    if color == "#000000":
        return "#e4e6e8"
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    for white in (step / 20 for step in range(21)):
        mixed = [part + white * (1 - part) for part in (red, green, blue)]
        if _luminance(mixed) >= _LIGHT_ENOUGH:
            break
    return "#" + "".join(f"{round(255 * part):02x}" for part in mixed)


_LIGHT_ENOUGH = 0.24
"""Relative luminance with a contrast of 4.5 to 1 against the dark background of the page (#1b1d20)."""


def _luminance(color: Sequence[float]) -> float:
    """Relative luminance of red, green and blue in 0 to 1, as the Web Content Accessibility Guidelines define it."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def short(name: str, limit: int = 24) -> str:
    """Name on one line, cut to `limit` characters with an ellipsis, so that it fits into a figure."""
    name = visible(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def new_figure(height: float) -> Figure:
    """Empty figure of the common width and a height in inches, drawn without a display."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure
