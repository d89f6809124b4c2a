"""Study: values that a method records during training, such as the gates of its blocks, over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import ended_ok
from reports.figures.drawing import rendered
from reports.figures.style import INK, new_figure, short
from reports.load.run_folders import Record
from reports.studies.study import Grid, Study

STEM = "gates"
MOST = 4
"""Largest number of methods in the figure."""
MOST_WRITTEN = 6
"""Largest number of evaluations whose values are written into the figure."""
MOST_TICKS = 7

FloatArray = NDArray[np.float64]
GateValues = Mapping[str, FloatArray]
"""Mean over seeds of the values, shape (evaluations, blocks), by their name."""


def study(comparison: Comparison, title: str, stem: str) -> Study | None:
    """Show the values of every block over the epochs; None if no method records values."""
    observed = {method: found for method in comparison.methods if (found := _observed(ended_ok(comparison, method)))}
    if not observed:
        return None
    drawn = dict(list(observed.items())[:MOST])
    caption = "Rows are blocks, the lowest layer first; columns are evaluations. A gate is 0.5 before training."
    if len(drawn) < len(observed):
        caption += f" Only the first {MOST} of {len(observed)} methods are drawn."
    drawing = rendered(stem, "What the gates learn", caption, lambda: _figure(drawn, _epochs(comparison, list(drawn))))
    header = ["Method", "1 or 0", "Mean at the first evaluation", "at the last", "Per block at the last"]
    rows = [
        [
            method,
            name,
            f"{values[0].mean():.3f}",
            f"{values[-1].mean():.3f}",
            " ".join(f"{value:.2f}" for value in values[-1]),
        ]
        for method, panels in observed.items()
        for name, values in panels.items()
    ]
    note = (
        "Values are means over the seeds that ended ok. Blocks are ordered from the lowest kept layer to the highest."
    )
    return Study(title, [Grid(stem, header, rows, words=2), note], [drawing])


def _observed(records: Sequence[Record]) -> GateValues:
    per_seed = [found for record in records if (found := _of_seed(record))]
    if not per_seed:
        return {}
    found = {}
    for name in per_seed[0]:
        arrays = [
            seed[name] for seed in per_seed if name in seed and seed[name].shape[1:] == per_seed[0][name].shape[1:]
        ]
        length = min(len(array) for array in arrays)
        found[name] = np.asarray(np.mean([array[:length] for array in arrays], axis=0))
    return found


def _of_seed(record: Record) -> dict[str, FloatArray]:
    points = [point.get("observed") for point in record.curve]
    if not points or not all(isinstance(point, Mapping) for point in points):
        return {}
    first: Any = points[0]
    return {str(name): found for name in first if (found := _array([p.get(name) for p in points])) is not None}  # type: ignore[union-attr]


def _array(rows: Sequence[Any]) -> FloatArray | None:
    """Values as an array, shape (evaluations, blocks); None if they do not form such an array of values in 0 to 1."""
    try:
        values = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    whole = values.ndim == 2 and values.size > 0 and bool(((values >= 0) & (values <= 1)).all())
    return values if whole else None


def _epochs(comparison: Comparison, methods: Sequence[str]) -> list[str]:
    """Labels of the columns: the epoch of each evaluation."""
    curves = [record.curve for method in methods for record in ended_ok(comparison, method)]
    longest: Sequence[Any] = max(curves, key=len)
    return [str(point.get("epoch", place + 1)) for place, point in enumerate(longest)]


def _figure(observed: Mapping[str, GateValues], epochs: Sequence[str]) -> Figure:
    names = list(dict.fromkeys(name for panels in observed.values() for name in panels))  # a column each
    tallest = {method: max(values.shape[1] for values in panels.values()) for method, panels in observed.items()}
    inches = sum(0.24 * max(rows, 3) + 0.85 for rows in tallest.values()) + 0.75
    figure = new_figure(inches)
    grid = figure.subplots(
        len(observed), len(names), squeeze=False, gridspec_kw={"height_ratios": [max(n, 3) for n in tallest.values()]}
    )
    figure.subplots_adjust(
        left=0.07,
        right=0.985,
        bottom=1.0 / inches,
        top=1 - 0.55 / inches,
        wspace=0.2,
        hspace=0.85 / (inches / len(observed) - 0.8),
    )
    image = None
    for row, (method, panels) in enumerate(observed.items()):
        for axes, name in zip(grid[row], names, strict=True):
            if name == names[0]:
                axes.annotate(
                    short(method), (0, 1), (0, 17), xycoords="axes fraction", textcoords="offset points",
                    fontweight="bold",
                )  # fmt: skip
            if name not in panels:
                axes.set_axis_off()
                continue
            image = _panel(axes, panels[name], epochs)
            axes.set_title(short(name, 36), loc="left", fontsize=9)
            if name == next(iter(panels)):
                axes.set_ylabel("block")
            if row == len(observed) - 1:
                axes.set_xlabel("epoch")
    assert image is not None
    bar = figure.add_axes((0.3, 0.32 / inches, 0.4, 0.12 / inches))
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=[0, 0.25, 0.5, 0.75, 1])
    bar.annotate(
        "gate", (0, 0.5), (-8, 0), xycoords="axes fraction", textcoords="offset points", ha="right", va="center"
    )
    return figure


def _panel(axes: Axes, values: FloatArray, epochs: Sequence[str]) -> AxesImage:
    image = axes.imshow(values.T, vmin=0, vmax=1, cmap=mpl.colormaps["PuOr_r"], aspect="auto", interpolation="nearest")
    axes.grid(False)
    for axis, length, names in ((axes.xaxis, len(values), epochs), (axes.yaxis, values.shape[1], None)):
        places = range(0, length, math.ceil(length / MOST_TICKS))
        axis.set_ticks(list(places), [names[place] if names else str(place + 1) for place in places])
    if len(values) <= MOST_WRITTEN:
        for (evaluation, block), value in np.ndenumerate(values):
            color = "white" if abs(value - 0.5) > 0.27 else INK
            axes.annotate(f"{value:.2f}", (evaluation, block), ha="center", va="center", fontsize=7.5, color=color)
    return image
