"""Figures of stacked bars, a row per method: the phases of a step, and the parts of the memory at its peak."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from bench.records.columns import MEMORY_PARTS
from reports.analysis.comparison import Comparison
from reports.figures.bars import method_axis, nice, power, rows_of_bars
from reports.figures.style import FAINT, INK, INK_ON_FILL, NotDrawn, Styles
from reports.load.run_folders import Record
from reports.text import UNITS, number, size

PHASES = {
    "data": "#dddddd",
    "transfer": "#bbbbbb",
    "backbone": "#77aadd",
    "forward": "#99ddff",
    "backward": "#ee8866",
    "optimizer": "#eedd88",
}
"""Colours of the phases of a step, in their order; from Paul Tol's light scheme, which no method uses."""

_COLOURS = ("#77aadd", "#ffaabb", "#eedd88", "#ee8866", "#44bb99", "#dddddd")
PARTS: dict[str, str] = dict(zip(MEMORY_PARTS, _COLOURS, strict=True))
"""Colours of the parts of the account of memory, from left to right."""

_LEGEND_INCHES = 0.4
_GAP = 0.05  # space for the last tick label of the left axes and the first of the right axes


def phases(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of the phases of a step: milliseconds on the left, shares on the right.

    Raises:
        NotDrawn: no phases were recorded.
    """
    shares = {method: found for method in comparison.drawn if (found := _phase_shares(comparison, method))}
    if not shares:
        raise NotDrawn("no phases of a step were recorded")
    methods = list(shares)
    figure, left, bottom, height = rows_of_bars(methods, above=_LEGEND_INCHES)
    width = (0.965 - left - _GAP) / 2
    measured = [phase for phase in PHASES if any(found.get(phase) for found in shares.values())]
    medians = {method: comparison.value(method, "step_seconds_median") for method in methods}

    absolute = figure.add_axes((left, bottom, width, height))
    top = 1000 * max([median for median in medians.values() if median is not None], default=1e-3)
    absolute.set_xlim(0, 1.3 * top)  # space on the right of the longest bar for its value
    for row, (method, found) in enumerate(shares.items()):
        median = medians[method]
        if median is not None:
            _stack(absolute, row, {phase: 1000 * median * found.get(phase, 0.0) for phase in measured}, PHASES)
        text = f"{number(1000 * median)} ms" if median is not None else "not measured"
        end = 0.0 if median is None else 1000 * median * sum(found.values())
        absolute.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9.5)
    absolute.xaxis.set_major_locator(MaxNLocator(4))
    absolute.set_xlabel("median time of a step, ms", labelpad=2)

    relative = figure.add_axes((left + width + _GAP, bottom, width, height))
    for row, found in enumerate(shares.values()):
        parts = {phase: found.get(phase, 0.0) for phase in measured}
        _stack(relative, row, parts, PHASES, {phase: f"{share:.0%}" for phase, share in parts.items() if share >= 0.09})
    relative.set_xlim(0, 1)
    relative.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    relative.set_xlabel("share of the time of a step", labelpad=2)
    _legend(absolute, measured, PHASES)
    for axes, labels in ((absolute, True), (relative, False)):
        method_axis(axes, methods, labels)
        axes.grid(False, axis="y")
    return figure


def _phase_shares(comparison: Comparison, method: str) -> dict[str, float]:
    """Share of each measured phase, as mean over the cells that ended ok."""
    return _means((record.steps.get("phases") for record in _ended_ok(comparison, method)), PHASES)


def memory(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of the live tensors at the peak: the measured bar and, if a plan exists, the predicted bar below it.

    Raises:
        NotDrawn: no account of the memory was recorded.
    """
    found = {method: _account(comparison, method) for method in comparison.drawn}
    methods = [method for method, (measured, _) in found.items() if measured]
    if not methods:
        raise NotDrawn("no account of the memory was recorded")
    figure, left, bottom, height = rows_of_bars(methods, above=_LEGEND_INCHES, row_inches=0.46)
    axes = figure.add_axes((left, bottom, 0.985 - left, height))
    totals = [sum(parts.values()) for method in methods for parts in found[method] if parts]
    other_peaks = {method: _other_peak(comparison, method) for method in methods}
    unit = 1024.0 ** power(max([*totals, *(value for value in other_peaks.values() if value)]))
    top = max([*totals, *(value for value in other_peaks.values() if value)]) / unit
    axes.set_xlim(0, 1.45 * top)  # space on the right of the longest bar for its values
    for row, method in enumerate(methods):
        measured, planned = found[method]
        _memory_row(axes, row, measured, planned, unit, top)
        other_peak = other_peaks[method]
        if other_peak is not None:
            axes.plot([other_peak / unit] * 2, [row - 0.36, row + 0.36], color=INK, lw=2)
    axes.xaxis.set_major_locator(MultipleLocator(nice(top / 6)))
    axes.set_xlabel(f"live tensors at the peak of a training step, {UNITS[power(unit)]}", labelpad=2)
    used = [part for part in PARTS if any(found[method][0].get(part) for method in methods)]
    further = [Patch(facecolor="white", edgecolor=FAINT, hatch="////", label="planned")] if any(
        planned for _, planned in found.values()) else []  # fmt: skip
    _legend(axes, used, PARTS, further)
    method_axis(axes, methods)
    return figure


def _memory_row(
    axes: Axes, row: int, measured: Mapping[str, float], planned: Mapping[str, float], unit: float, top: float
) -> None:
    """Draw the measured bar, the planned bar below it (thinner and hatched), and the totals on the right."""
    height, offset = (0.36, -0.14) if planned else (0.6, 0.0)
    parts = {part: value / unit for part, value in measured.items()}
    words = {part: number(value) for part, value in parts.items() if value >= 0.07 * top}
    _stack(axes, row + offset, parts, PARTS, words, height)
    text = size(sum(measured.values()))
    if planned:
        _stack(
            axes, row + 0.2, {part: value / unit for part, value in planned.items()}, PARTS, height=0.2, hatch="////"
        )
        text += f", planned {size(sum(planned.values()))}"
    end = max(sum(parts.values()), sum(planned.values()) / unit)
    axes.annotate(text, (end, row), (5, 0), textcoords="offset points", va="center", fontsize=9.5)


def _account(comparison: Comparison, method: str) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of each part, measured and planned, as means over the cells that ended ok; empty if unknown."""
    records = _ended_ok(comparison, method)
    return _means((record.memory for record in records), PARTS), _means((record.plan for record in records), PARTS)


def _other_peak(comparison: Comparison, method: str) -> float | None:
    """Peak of the driver or the allocator if the TPME uses it; None if the TPME uses the account."""
    row = comparison.summary.loc[method]
    return None if row["memory_source"] == "account" else comparison.value(method, "peak_memory_bytes")


def _ended_ok(comparison: Comparison, method: str) -> list[Record]:
    return [record for record in comparison.records if record.row["method"] == method and record.ok]


def _means(measured: Iterable[object], names: Iterable[str]) -> dict[str, float]:
    """Mean of each name over the mappings that have a number for it."""
    found: dict[str, list[float]] = {}
    for values in measured:
        if isinstance(values, Mapping):
            for name in names:
                if isinstance(values.get(name), int | float):
                    found.setdefault(name, []).append(float(values[name]))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _stack(
    axes: Axes,
    row: float,
    parts: Mapping[str, float],
    colors: Mapping[str, str],
    words: Mapping[str, str] | None = None,
    height: float = 0.7,
    hatch: str | None = None,
) -> None:
    """Draw one bar of adjacent parts, with text in some of them."""
    start = 0.0
    for part, color in colors.items():
        value = parts.get(part, 0.0)
        if not value:
            continue
        axes.barh(row, value, left=start, height=height, color=color, hatch=hatch, edgecolor="white", lw=0.5)
        if words and part in words:
            axes.text(start + value / 2, row, words[part], ha="center", va="center", fontsize=9, color=INK_ON_FILL)
        start += value


def _legend(axes: Axes, names: Sequence[str], colors: Mapping[str, str], further: Sequence[Patch] = ()) -> None:
    handles = [Patch(facecolor=colors[name], label=name) for name in names]
    axes.legend(
        handles=[*handles, *further], ncols=len(names) + len(further), loc="lower left", bbox_to_anchor=(-0.01, 1.0),
        frameon=False, fontsize=9.5, handlelength=1.1, columnspacing=1.3, handletextpad=0.5,
    )  # fmt: skip
