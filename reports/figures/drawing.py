"""A figure rendered to PNG and SVG without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from reports.figures.style import DPI, RC, NotDrawn


@dataclass(frozen=True)
class Drawing:
    """Figure of a report: its PNG and SVG, or the reason why it was not drawn."""

    stem: str
    title: str
    caption: str
    png: bytes | None
    svg: bytes | None = None
    reason: str = ""


def rendered(stem: str, title: str, caption: str, make: Callable[[], Figure]) -> Drawing:
    """Render a figure to PNG and SVG; if `make` raises NotDrawn, keep its message as the reason."""
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
