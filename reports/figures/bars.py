"""Figures with a row per method: costs and step times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullFormatter,
    NullLocator,
)

from reports.analysis.comparison import Comparison
from reports.analysis.resampled_steps import seconds_of
from reports.figures.style import DECADES, FAINT, INK, NotDrawn, Styles, new_figure, short
from reports.text import UNITS, count, number, size

MOST_DOTS = 300
"""Largest number of dots in a row that an SVG holds as shapes; more are held as a bitmap."""


def costs(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of costs: a panel of bars each for seconds per epoch, peak memory and trainable parameters.

    Raises:
        NotDrawn: no cost was measured.
    """
    panels: list[tuple[str, str, Callable[[float], str]]] = [
        ("epoch_seconds", "Seconds per epoch", number),
        ("peak_memory_bytes", "Peak memory", size),
        ("trainable_params", "Trainable parameters", count),
    ]
    if not any(comparison.measured(column) for column, _, _ in panels):
        raise NotDrawn("no cost was measured")
    methods = [
        method for method in comparison.drawn if any(comparison.value(method, column) for column, _, _ in panels)
    ]
    figure, left, bottom, height = rows_of_bars(methods, above=0.35)
    width = (0.985 - left - 2 * 0.03) / 3
    for place, (column, title, words) in enumerate(panels):
        axes = figure.add_axes((left + place * (width + 0.03), bottom, width, height))
        _bars(axes, comparison, methods, styles, column, words)
        axes.set_title(title, loc="left")
        method_axis(axes, methods, labels=place == 0)
    return figure


def rows_of_bars(methods: Sequence[str], above: float, row_inches: float = 0.36) -> tuple[Figure, float, float, float]:
    """Figure with a row per method, and the left, bottom and height of its axes as shares of the figure.

    `above` is the space for a title or a legend, in inches.
    """
    inches = row_inches * len(methods) + 0.75 + above
    longest = max(len(short(method)) for method in methods)
    left = min(0.03 + 0.0105 * longest, 0.28)
    bottom = 0.6 / inches
    return new_figure(inches), left, bottom, 1 - bottom - above / inches


def method_axis(axes: Axes, methods: Sequence[str], labels: bool = True) -> None:
    """Put the names of the methods at the vertical axis, the first on top."""
    axes.set_yticks(range(len(methods)), [short(method) for method in methods] if labels else [""] * len(methods))
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")


def _bars(
    axes: Axes,
    comparison: Comparison,
    methods: Sequence[str],
    styles: Styles,
    column: str,
    words: Callable[[float], str],
) -> None:
    values = {method: value for method in methods if (value := comparison.value(method, column)) is not None}
    positive = [value for value in values.values() if value > 0]
    logarithmic = bool(positive) and max(positive) / min(positive) >= DECADES
    top = max(positive, default=1.0)
    # Leave space on the right of the longest bar for its value.
    if logarithmic:
        low = 10 ** np.floor(np.log10(min(positive) / 2))
        axes.set_xscale("log")
        axes.set_xlim(low, low * (top / low) ** 1.6)
    else:
        axes.set_xlim(0, 1.55 * top)
    _axis_in_words(axes, column, logarithmic)
    for row, method in enumerate(methods):
        value = values.get(method)
        if value is None:
            axes.annotate("not measured", (0, row), (4, 0), xycoords=("axes fraction", "data"),
                          textcoords="offset points", va="center", color=FAINT, fontsize=9)  # fmt: skip
            continue
        axes.barh(row, value, height=0.66, color=styles[method].color)
        axes.annotate(words(value), (max(value, axes.get_xlim()[0]), row), (4, 0), textcoords="offset points",
                      va="center", fontsize=9.5)  # fmt: skip


def _axis_in_words(axes: Axes, column: str, logarithmic: bool) -> None:
    """Set few ticks, with labels such as 10 k, 1 M and bytes in binary units, so that labels of panels do not touch."""
    low, high = axes.get_xlim()
    binary = column == "peak_memory_bytes"
    if logarithmic:
        base = 1024.0 if binary else 10.0
        first, last = np.ceil(np.log(low) / np.log(base)), np.floor(np.log(high) / np.log(base) - 0.2)
        every = max(1.0, np.ceil((last - first) / 3))
        axes.xaxis.set_major_locator(FixedLocator(list(base ** np.arange(first, last + 0.5, every))))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _binary(value) if binary else _metric(value)))
    elif binary:
        unit = 1024.0 ** power(high)
        axes.xaxis.set_major_locator(MultipleLocator(nice(high / unit / 4) * unit))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / unit:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _metric(value)))
    units = {"epoch_seconds": "s", "peak_memory_bytes": "" if logarithmic else UNITS[power(high)]}
    label = f"{units.get(column, '')} (logarithmic)" if logarithmic else units.get(column, "")
    axes.set_xlabel(label.strip(), labelpad=2, fontsize=9.5)


def power(value: float) -> int:
    """Index in `UNITS` of the binary unit that suits a number of bytes."""
    return max(0, min(len(UNITS) - 1, int(np.log2(max(value, 1)) // 10)))


def _binary(value: float) -> str:
    return f"{value / 1024.0 ** power(value):g} {UNITS[power(value)]}"


def nice(step: float) -> float:
    """Smallest of 1, 2, 5, 10, ... times a power of ten that is at least the step."""
    power = 10 ** np.floor(np.log10(max(step, 1e-12)))
    return float(next(base * power for base in (1, 2, 5, 10) if base * power >= step * 0.999))


def _metric(value: float) -> str:
    for limit, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{suffix}"
    return f"{value:g}"


def step_times(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of step times: quartiles, the 5th and 95th percentile, and the single steps beyond them.

    Raises:
        NotDrawn: no step times were recorded.
        UserError: a steps.csv is malformed.
    """
    times = {method: found for method in comparison.drawn if len(found := seconds_of(comparison.records, method))}
    if not times:
        raise NotDrawn("no step times were recorded")
    methods = list(times)
    figure, left, bottom, height = rows_of_bars(methods, above=0.1)
    axes = figure.add_axes((left, bottom, 0.97 - left, height))
    for row, (method, seconds) in enumerate(times.items()):
        color = styles[method].color
        p5, q25, median, q75, p95 = np.percentile(seconds, [5, 25, 50, 75, 95])
        beyond = seconds[(seconds < p5) | (seconds > p95)]
        axes.plot(beyond, np.full(len(beyond), row), "o", color=color, ms=2.5, alpha=0.35, mew=0,
                  rasterized=len(beyond) > MOST_DOTS)  # fmt: skip
        axes.hlines(row, p5, p95, color=color, lw=1.4)
        axes.barh(row, q75 - q25, left=q25, height=0.5, color=color, alpha=0.45, edgecolor=color)
        axes.vlines(median, row - 0.25, row + 0.25, color=INK, lw=2)
        axes.annotate(f"{number(1000 * median)} ms", (median, row - 0.26), (0, 1), textcoords="offset points",
                      ha="center", va="bottom", fontsize=8.5)  # fmt: skip
    everything = np.concatenate(list(times.values()))
    logarithmic = bool(everything.min() > 0 and everything.max() / everything.min() >= DECADES / 3)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{1000 * value:g}"))
    axes.set_xlabel(f"time of a training step, ms{' (logarithmic)' if logarithmic else ''}", labelpad=2)
    method_axis(axes, methods)
    return figure
