"""What it cost to find the options of each method, and what each trial brought."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.records.tuned import Tuned
from reports import style
from reports.blocks import Block
from reports.curves import HEADROOM, label_ends
from reports.style import Styles, accuracy_label
from reports.text import amount, count, escape, listing, number, table

_HEADER = ["Method", "Trials", "Failed", "Time", "Energy", "Validation HR@10", "Chosen on", "Options"]


def costs(block: Block) -> dict[str, Tuned]:
    """The search of each method that had one, in the order of the tables."""
    found = {record.row["method"]: record.tuned for record in block.records if record.tuned is not None}
    return {method: found[method] for method in block.methods if method in found}


def section(block: Block) -> str:
    """A row per method whose options were searched for; there is one at least."""
    found = costs(block)
    digests = {record.dataset_digest for record in block.records} - {""}
    rows = [
        [
            escape(method),
            count(one.trials),
            count(one.failed),
            _sum(one.seconds, one.timed, one.trials, lambda value: f"{number(value)} s"),
            _sum(one.joules, one.metered, one.trials, lambda value: amount(value, "J")),
            f"{max(value for _, value in one.curve):.3f}" if one.curve else "",
            _where(one.data, digests),
            _options(one.options),
        ]
        for method, one in found.items()
    ]
    parts = [_LEGEND]
    if len({one.trials for one in found.values()}) > 1:
        parts.append("The methods had different numbers of trials: whoever had more had an advantage.")
    others = [escape(method) for method in block.methods if method not in found]
    if others:
        parts.append(f"Nothing is known of a search for the options of {listing(others)}.")
    return f"{' '.join(parts)}\n\n{table(_HEADER, rows)}"


_LEGEND = (
    "Options were chosen by validation HR@10 alone. Time is that of whole trials, with set-up and evaluation; energy "
    "is that of their training, where a driver told it. Trials that failed count, with what they cost; ≥ where that is "
    "not known of every trial."
)


def _sum(value: float | None, known: int, trials: int, words: Callable[[float], str]) -> str:
    if value is None:
        return ""
    return words(value) if known >= trials else f"≥ {words(value)}"


def _where(data: str | None, digests: Collection[str]) -> str:
    if not data or not digests:
        return ""
    return "this data" if data in digests else "other data"


def _options(options: Mapping[str, Any]) -> str:
    shown = (
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items()
    )
    return escape(", ".join(shown), limit=200)


def best_so_far(block: Block, styles: Styles) -> Figure:
    """Best validation HR@10 over trials, a line of steps per method; one that has no figure yet has no line."""
    curves = {method: one.curve for method, one in costs(block).items() if method in block.drawn and one.curve}
    if not curves:
        raise style.NotDrawn("no trial has a figure")
    figure = style.new_figure(4.9)
    longest = max(len(style.short(method)) for method in curves)
    axes = figure.add_axes((0.1, 0.12, 0.885 - 0.0118 * max(longest, 6), 0.86))
    for method, curve in curves.items():
        look = styles[method]
        axes.plot(*zip(*curve, strict=True), color=look.color, lw=1.8, drawstyle="steps-post", marker=look.marker,
                  ms=6 * look.size, mec="white", mew=0.6)  # fmt: skip
    axes.set_ylim(0, HEADROOM * max(value for curve in curves.values() for _, value in curve) or 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("trials, those that failed included")
    axes.set_ylabel(accuracy_label("best validation HR@10 so far", block.random_weights))
    label_ends(axes, {method: curve[-1] for method, curve in curves.items()}, styles)
    return figure
