"""Figures of learning curves: validation HR@10 over the seconds, FLOPs and energy of the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from reports.analysis.comparison import Comparison
from reports.figures.accuracy_axis import show_accuracy
from reports.figures.labels import label_ends
from reports.figures.style import DECADES, NotDrawn, Styles, new_figure, short
from reports.load.run_folders import Record
from reports.load.validation import Json

FloatArray = NDArray[np.float64]
Spent = Callable[[Record, Json], float | None]
"""Function that gives the amount spent by a cell up to a point of its curve; None if it is unknown."""


def over_seconds(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of validation HR@10 over seconds of training: thin lines are seeds, the thick line is their mean.

    Raises:
        NotDrawn: no validation was recorded.
    """
    return _learning(comparison, styles, _seconds, "seconds of training (without evaluation and cache building)")


def over_flops(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of validation HR@10 over training FLOPs: those of a step of median size times the number of steps.

    Raises:
        NotDrawn: no validation or no FLOPs were recorded.
    """
    label = "TFLOPs of training (without evaluation and cache building)"
    return _learning(comparison, styles, _tera_flops, label, "the operations of a step were not counted")


def over_energy(comparison: Comparison, styles: Styles) -> Figure:
    """Figure of validation HR@10 over energy, computed as if the power had been constant during training.

    Raises:
        NotDrawn: no validation or no energy was recorded.
    """
    label = "energy of the card during training, kJ"
    return _learning(comparison, styles, _kilojoules, label, "no energy was measured")


def _seconds(_: Record, point: Json) -> float | None:
    return _known(point.get("train_seconds"))


def _tera_flops(record: Record, point: Json) -> float | None:
    figures = [_known(value) for value in (
        point.get("step"), record.compute.get("flops_forward"), record.compute.get("flops_backward")
    )]  # fmt: skip
    steps, forward, backward = figures
    return None if steps is None or forward is None or backward is None else steps * (forward + backward) / 1e12


def _kilojoules(record: Record, point: Json) -> float | None:
    seconds = _known(point.get("train_seconds"))
    energy, whole = _known(record.row.get("energy_joules")), _known(record.row.get("train_seconds"))
    return None if seconds is None or energy is None or not whole else energy * seconds / whole / 1e3


def _known(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _learning(comparison: Comparison, styles: Styles, spent: Spent, label: str, why_not: str = "") -> Figure:
    if not any(_curves(comparison, method, _seconds) for method in comparison.drawn):
        raise NotDrawn("no validation was recorded")
    curves = {method: found for method in comparison.drawn if (found := _curves(comparison, method, spent))}
    if not curves:
        raise NotDrawn(why_not)
    figure = new_figure(4.9)
    longest = max(len(short(method)) for method in curves)
    axes = figure.add_axes((0.098, 0.12, 0.887 - 0.0118 * max(longest, 6), 0.86))
    ends = {}
    for method, lines in curves.items():
        style = styles[method]
        mean = mean_curve(lines)
        for line in lines if len(lines) > 1 else []:
            axes.plot(line[:, 0], line[:, 1], color=style.color, lw=0.8, alpha=0.4)
        axes.plot(
            mean[:, 0],
            mean[:, 1],
            color=style.color,
            lw=1.8,
            marker=style.marker,
            ms=6 * style.size,
            mec="white",
            mew=0.6,
        )
        ends[method] = (float(mean[-1, 0]), float(mean[-1, 1]))
    _logarithmic_if_wide(axes, [line for lines in curves.values() for line in lines])
    axes.set_xlabel(label)
    values = [float(value) for lines in curves.values() for line in lines for value in line[:, 1]]
    show_accuracy(axes, values, "validation HR@10", random_weights=comparison.random_weights)
    label_ends(axes, ends, styles)
    return figure


def _logarithmic_if_wide(axes: Axes, lines: Sequence[FloatArray]) -> None:
    starts = [line[0, 0] for line in lines if line[0, 0] > 0]
    if starts and max(line[-1, 0] for line in lines) / min(starts) >= DECADES:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _curves(comparison: Comparison, method: str, spent: Spent) -> list[FloatArray]:
    """Curve of each seed that ended ok, shape (evaluations, 2): amount spent and validation HR@10."""
    lines = []
    for record in comparison.records:
        if record.row["method"] != method or not record.ok:
            continue
        points = [(spent(record, dict(point)), _known(point.get("valid_hr@10"))) for point in record.curve]
        known = [(x, y) for x, y in points if x is not None and y is not None]
        if known:
            lines.append(np.array(known, dtype=np.float64))
    return lines


def mean_curve(lines: Sequence[FloatArray]) -> FloatArray:
    """Mean curve over seeds, point by point, over the evaluations that every seed has."""
    length = min(len(line) for line in lines)
    return np.asarray(np.mean([line[:length] for line in lines], axis=0))
