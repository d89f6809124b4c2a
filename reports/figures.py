"""The figures of a report, drawn from records without a display."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from bench.errors import UserError
from reports import bars, style, ternary
from reports.blocks import Block
from reports.style import DECADES, DPI, FAINT, RC, NotDrawn, Styles, short
from reports.tradeoff import trade_off


@dataclass(frozen=True)
class Drawing:
    """A figure as it goes into the report: either a PNG, or the reason why there is none."""

    stem: str
    title: str
    caption: str
    png: bytes | None
    reason: str = ""


def draw(block: Block, styles: Styles) -> list[Drawing]:
    """All figures of a block; one that cannot be drawn says why."""
    return [_drawing(stem, title, caption, make, block, styles) for stem, title, caption, make in FIGURES]


def _drawing(
    stem: str, title: str, caption: str, make: Callable[[Block, Styles], Figure], block: Block, styles: Styles
) -> Drawing:
    name = f"{stem}-{block.slug}" if block.slug else stem
    with mpl.rc_context(RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a name in a script that the font lacks
        try:
            figure = make(block, styles)
        except NotDrawn as reason:
            return Drawing(name, title, caption, None, str(reason))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return Drawing(name, title, caption, buffer.getvalue())


def accuracy_against_tpme(block: Block, styles: Styles) -> Figure:
    """HR@10 over TPME, with intervals, single seeds, and the floor and ceiling as lines."""
    try:
        scores = trade_off(block)
    except UserError as error:
        raise NotDrawn(f"TPME cannot be computed: {error}") from None
    spreads = {method: spread for method in scores if (spread := block.spread(method, "hr@10"))}
    if not spreads:
        raise NotDrawn("no HR@10 was measured")
    figure = style.new_figure(5.2)
    axes = figure.add_axes((0.085, 0.115, 0.89, 0.86))
    for method, spread in spreads.items():
        look = styles[method]
        if spread.low is not None and spread.high is not None:
            axes.vlines(scores[method], max(spread.low, 0), min(spread.high, 1), color=look.color, lw=1.2, alpha=0.45)
        cells = block.results[block.results["method"] == method]
        axes.plot(cells["tpme"], cells["hr@10"], "o", color=look.color, ms=3, alpha=0.45, mew=0)
        axes.plot(scores[method], spread.mean, look.marker, color=look.color, ms=9 * look.size, mec="white", mew=0.8)
    lines = _reference_lines(block)
    # Beyond 0 and 1 only where a reference table pins the range.
    axes.set_xlim(min(0.0, *scores.values()) - 0.06, max(1.0, *scores.values()) + 0.06)
    tops = [min(spread.high or spread.mean, 1.0) for spread in spreads.values()]
    axes.set_ylim(0, 1.12 * max([*tops, *lines.values(), 1e-3]))
    for height in lines.values():
        axes.axhline(height, color=FAINT, lw=1, ls=(0, (5, 3)))
    axes.set_xlabel("TPME: time, parameters and memory together, 0 to 1; further left is cheaper")
    axes.set_ylabel(_hit_rate("test HR@10", block))
    style.label_points(
        axes,
        [(scores[method], spreads[method].mean) for method in spreads],
        [short(method) for method in spreads],
        [styles[method].color for method in spreads],
        [(max(spread.low or spread.mean, 0), min(spread.high or spread.mean, 1)) for spread in spreads.values()],
        {f"{name} {height:.3f}": height for name, height in lines.items()},
    )
    return figure


def _reference_lines(block: Block) -> dict[str, float]:
    names = {"popularity": "popularity", "Bayes ceiling": "bayes"}
    lines = {label: block.reference(name, "hr@10") for label, name in names.items()}
    return {label: height for label, height in lines.items() if height is not None}


def _hit_rate(label: str, block: Block) -> str:
    return f"{label} (random backbones: no meaning)" if block.random_weights else label


def learning(block: Block, styles: Styles) -> Figure:
    """Validation HR@10 over the seconds of training: thin lines are seeds, the thick one is their mean."""
    curves = {method: found for method in block.methods if (found := _curves(block, method))}
    if not curves:
        raise NotDrawn("no validation was recorded")
    figure = style.new_figure(4.9)
    longest = max(len(short(method)) for method in curves)
    axes = figure.add_axes((0.085, 0.12, 0.9 - 0.0118 * max(longest, 6), 0.86))
    ends = {}
    for method, lines in curves.items():
        look = styles[method]
        mean = _mean_curve(lines)
        for line in lines if len(lines) > 1 else []:
            axes.plot(line[:, 0], line[:, 1], color=look.color, lw=0.8, alpha=0.4)
        axes.plot(
            mean[:, 0], mean[:, 1], color=look.color, lw=1.8, marker=look.marker, ms=6 * look.size, mec="white", mew=0.6
        )
        ends[method] = (float(mean[-1, 0]), float(mean[-1, 1]))
    starts = [line[0, 0] for lines in curves.values() for line in lines if line[0, 0] > 0]
    last = max(line[-1, 0] for lines in curves.values() for line in lines)
    if starts and last / min(starts) >= DECADES:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds of training (evaluation and cache building apart)")
    axes.set_ylabel(_hit_rate("validation HR@10", block))
    _label_ends(axes, ends, styles)
    return figure


def _curves(block: Block, method: str) -> list[NDArray[np.float64]]:
    """Per seed that ended ok an array of shape (evaluations, 2): seconds of training, HR@10."""
    lines = []
    for record in block.records:
        if record.row["method"] != method or record.row["status"] != "ok":
            continue
        points = [(point.get("train_seconds"), point.get("valid_hr@10")) for point in record.curve]
        known = [(x, y) for x, y in points if isinstance(x, int | float) and isinstance(y, int | float)]
        if known:
            lines.append(np.array(known, dtype=np.float64))
    return lines


def _mean_curve(lines: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Point by point over the evaluations that every seed has."""
    length = min(len(line) for line in lines)
    return np.asarray(np.mean([line[:length] for line in lines], axis=0))


def _label_ends(axes: Axes, ends: Mapping[str, tuple[float, float]], styles: Styles) -> None:
    """Names on the right of the frame, moved apart, each with a thin line from the end of its curve."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    gap = 0.045 * (high - low)
    heights = style.spread_out([y for _, y in ends.values()], gap)
    lift = max(0.0, low + gap / 2 - min(heights)) - max(0.0, max(heights) - (high - gap / 2))
    for (method, (x, y)), height in zip(ends.items(), heights, strict=True):
        color = styles[method].color
        axes.plot([x, right], [y, height + lift], color=color, lw=0.6, alpha=0.6, ls=(0, (2, 2)))
        axes.annotate(short(method), (1, height + lift), (4, 0), xycoords=("axes fraction", "data"), va="center",
                      textcoords="offset points", color=color, fontweight="bold", annotation_clip=False)  # fmt: skip
    axes.set_ylim(low, high)
    axes.set_xlim(right=right)


FIGURES: tuple[tuple[str, str, str, Callable[[Block, Styles], Figure]], ...] = (
    (
        "accuracy-tpme",
        "Accuracy against TPME",
        "Further up is more accurate, further left cheaper. Bars are 95 % intervals, small dots single seeds.",
        accuracy_against_tpme,
    ),
    ("costs", "Time, memory and parameters", "Means over the seeds that ended ok.", bars.costs),
    (
        "learning",
        "Validation HR@10 against seconds of training",
        "A thick line is the mean over seeds, thin lines are single seeds.",
        learning,
    ),
    (
        "step-times",
        "Time of a training step",
        "Boxes are quartiles with the median, whiskers reach to the 5th and 95th percentile, dots are steps beyond.",
        bars.step_times,
    ),
    (
        "phases",
        "Where the time of a step goes",
        "Backbone is the forward pass of the backbones, forward that of everything else.",
        bars.phases,
    ),
    (
        "weights",
        "Which method is first under which weights",
        "Each point of the triangle is a weighting of time, parameters and memory, a corner one of them alone; the "
        "parts and their shares are exact.",
        ternary.weights,
    ),
)
