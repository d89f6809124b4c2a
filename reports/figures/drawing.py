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
    """A figure as it goes into the report: either as PNG and SVG, or the reason why there is none."""

    stem: str
    title: str
    caption: str
    png: bytes | None
    svg: bytes | None = None
    reason: str = ""


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
