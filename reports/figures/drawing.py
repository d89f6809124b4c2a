"""A figure rendered to PNG and SVG without a display."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.figure import Figure

from reports.figures import fonts
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

    def drawn() -> tuple[bytes, bytes]:
        figure = make()
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        figure.savefig(svg, format="svg", dpi=DPI, metadata={"Date": None, "Creator": None})
        return png.getvalue(), svg.getvalue()

    with mpl.rc_context(RC):
        try:
            (png, svg), missing = fonts.with_fallback(drawn)
        except NotDrawn as reason:
            return Drawing(stem, title, caption, None, reason=str(reason))
    return Drawing(stem, title, caption + fonts.note(missing), png, svg)
