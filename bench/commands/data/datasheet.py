"""Datasheet of a dataset: its facts as tables, and figures of distributions."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from bench.commands.data.summary import rows
from bench.records.record import write_json, write_text
from bench.utils.errors import UserError
from bench.utils.files import atomic_path
from reports.figures import style
from reports.figures.style import DPI, RC
from reports.text import escape, table

if TYPE_CHECKING:
    from bench.commands.data.dataset_check import Examination

_COLOR = "#0072B2"
_MOST_BARS = 40
_NUMBERS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def write(found: Examination, out: Path) -> None:
    """Writes ``data.md``, ``data.json`` and ``figures/*.png`` into a folder.

    Raises:
        UserError: a file cannot be written.
    """
    drawn = {name: make(found) for name, (_, make) in _FIGURES.items()}
    for name, png in drawn.items():
        path = out / "figures" / f"{name}.png"
        try:
            with atomic_path(path) as partial:
                partial.write_bytes(png)
        except OSError as error:
            raise UserError(f"--out {path}: {error.strerror or error}") from error
    write_json(out / "data.json", found.facts)
    write_text(out / "data.md", _page(found.facts))


def _page(facts: dict[str, Any]) -> str:
    parts = [f"# Dataset {escape(facts['name'])}"]
    parts += ["\n".join(f"- **Warning:** {escape(warning)}" for warning in facts["warnings"])] * bool(facts["warnings"])
    parts.append(table(["", ""], [[escape(name), escape(value)] for name, value in rows(facts)], numbers_from=2))
    parts += [f"## {title}\n\n![{title}](figures/{name}.png)" for name, (title, _) in _FIGURES.items()]
    images = facts["images"] or {}
    for what, alike in (("titles", facts["alike_titles"]), ("images", images.get("alike"))):
        if alike and alike["largest"]:
            groups = [[f"{one['items']:,}", "; ".join(map(escape, one["such_as"]))] for one in alike["largest"]]
            parts.append(f"## The largest groups of near-duplicate {what}\n\n{table(['Items', 'Such as'], groups, 2)}")
    return "\n\n".join(parts) + "\n"


def _png(draw: Callable[[Examination], Figure]) -> Callable[[Examination], bytes]:
    def made(found: Examination) -> bytes:
        with mpl.rc_context(RC):
            buffer = io.BytesIO()
            draw(found).savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
        return buffer.getvalue()

    return made


def _counted(values: NDArray[np.int64], what: str, of: str) -> Figure:
    """Histogram of integers with at most `_MOST_BARS` bars; the last bar holds all larger values."""
    last = min(int(values.max()), int(values.min()) + _MOST_BARS - 1)
    clipped = np.minimum(values, last)
    counts = np.bincount(clipped)
    figure = style.new_figure(3.2)
    axes = figure.add_axes((0.1, 0.16, 0.88, 0.76))
    places = np.arange(int(values.min()), last + 1)
    axes.bar(places, counts[places], color=_COLOR, width=0.85)
    more = f" (the last bar: {last} or more)" if values.max() > last else ""
    axes.set_xlabel(f"{what}{more}")
    axes.set_title(of, loc="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_NUMBERS)
    return figure


def _lengths(found: Examination) -> Figure:
    return _counted(found.lengths, "items in a user's sequence, after cutting", "Users")


def _title_words(found: Examination) -> Figure:
    return _counted(found.title_words, "words in a title", "Items")


def _popularity(found: Examination) -> Figure:
    """Curve of the training interactions of the items, most popular first, with logarithmic axes."""
    falling = np.sort(found.popularity)[::-1]
    sold = falling[falling > 0]
    figure = style.new_figure(3.6)
    axes = figure.add_axes((0.1, 0.145, 0.88, 0.77))
    # A few hundred points draw the curve of a million items as well.
    places = np.unique(np.geomspace(1, len(sold), 400).astype(np.int64))
    axes.plot(places, sold[places - 1], color=_COLOR, lw=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_NUMBERS)
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("items, most popular first")
    axes.set_title(
        f"Training interactions of an item; {len(falling) - len(sold):,} of {len(falling):,} items have none",
        loc="left",
    )
    return figure


_FIGURES: dict[str, tuple[str, Callable[[Examination], bytes]]] = {
    "lengths": ("Sequence lengths", _png(_lengths)),
    "popularity": ("Popularity", _png(_popularity)),
    "title-words": ("Title lengths", _png(_title_words)),
}
