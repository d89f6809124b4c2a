"""Study: every method with one pair of encoders and with another, and one TPME over all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import comparable_costs
from reports.figures.accuracy_axis import show_accuracy
from reports.figures.drawing import rendered
from reports.figures.labels import LEGEND_COLUMNS, marker_at, marks_legend
from reports.figures.style import DECADES, INK, NotDrawn, Styles, new_figure, short
from reports.studies.study import COSTS, MODELS, Grid, Study, accuracy_of, alike, costs_of, setting
from reports.text import count, escape

STEM = "backbones"
_ROOM = 40
"""Number of letters that fit side by side below a panel of half the width."""


def by_backbones(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Groups of comparisons that differ in the encoders and their weights alone."""
    return [group for group in alike(comparisons, (*MODELS, "weights")) if len(group) > 1]


def study(group: Sequence[Comparison], title: str, stem: str, styles: Styles) -> Study:
    """Compare every method with every pair of encoders: size, accuracy, costs, and one TPME over all of them."""
    labels = [_pair(comparison) for comparison in group]
    scores, why_not = _joint(group)
    header = [
        "Encoders",
        "Method",
        "Parameters of the model",
        "HR@10",
        *(title for _, title, _ in COSTS),
        "TPME over all",
    ]
    rows = [
        [
            label,
            method,
            "" if (whole := _size(comparison, method)) is None else count(whole),
            accuracy_of(comparison, method),
            *costs_of(comparison, method),
            f"{scores[place][method]:.3f}" if method in scores[place] else "",
        ]
        for place, (comparison, label) in enumerate(zip(group, labels, strict=True))
        for method in comparison.methods
    ]
    drawing = rendered(
        stem,
        "Encoders: accuracy by pair, and against a TPME over all of them",
        "The TPME is one score over every method with every pair. A colour is a method, a marker is a pair.",
        lambda: _figure(group, [_pair(comparison, brief=True) for comparison in group], scores, styles),
    )
    note = "The parameters of the model are those that a cell holds; a cached method does not load the encoders."
    grid = Grid(stem, header, rows, words=2)
    return Study(title, [grid, " ".join([note, why_not]).strip()], [drawing])


def _pair(comparison: Comparison, brief: bool = False) -> str:
    own = setting(comparison)
    models = [str(own[model]) for model in MODELS if own[model]]
    names = " + ".join(dict.fromkeys(PurePath(model).name if brief else model for model in models))
    return f"{names} (random)" if own["weights"] == "random" else names


def _size(comparison: Comparison, method: str) -> float | None:
    return comparison.value(method, "total_params")


def _joint(group: Sequence[Comparison]) -> tuple[list[dict[str, float]], str]:
    """One TPME over all methods of all comparisons, by comparison and method; empty with a reason if not computable."""
    try:
        costs = {
            f"{place} {m}": row
            for place, comparison in enumerate(group)
            for m, row in comparable_costs(comparison).items()
        }
        sources = {str(s) for comparison in group for s in comparison.results["memory_source"].dropna()}
        if len(sources) > 1:
            raise UserError(f"memory was measured in different ways ({', '.join(sorted(sources))})")
        scores = group[0].options.tpme_of(costs)
    except UserError as error:
        return [{} for _ in group], f"TPME over all cannot be computed: {escape(error)}."
    return [
        {m: scores[f"{place} {m}"] for m in comparison.methods if f"{place} {m}" in scores}
        for place, comparison in enumerate(group)
    ], ""


def _encoder_size(comparison: Comparison) -> float | None:
    """Number of parameters of the encoders: the largest number of untrained parameters of a method.

    None if it is unknown: methods that read a cache hold no encoder.
    """
    left = [
        total - trained
        for method in comparison.methods
        if (total := _size(comparison, method)) is not None
        and (trained := comparison.value(method, "trainable_params")) is not None
    ]
    return max(left, default=0) or None


def _figure(
    group: Sequence[Comparison], labels: Sequence[str], scores: Sequence[Mapping[str, float]], styles: Styles
) -> Figure:
    methods = list(dict.fromkeys(method for comparison in group for method in comparison.drawn))
    if not any(comparison.value(method, "hr@10") is not None for comparison in group for method in methods):
        raise NotDrawn("no HR@10 was measured")
    figure = new_figure(4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = [size / 1e6 for comparison in group if (size := _encoder_size(comparison))]
    by_size = len(sizes) == len(group) and len(set(sizes)) > 1
    xs = sizes if by_size else list(range(len(group)))
    slanted = not by_size and sum(len(short(label, 26)) for label in labels) > _ROOM
    bottom = (0.22 if slanted else 0.14) + 0.055 * math.ceil(len(methods) / LEGEND_COLUMNS)
    figure.subplots_adjust(left=0.098, right=0.985, bottom=bottom, top=0.9, wspace=0.06)
    for method in methods:
        points = [
            (xs[place], place, value)
            for place, comparison in enumerate(group)
            if (value := comparison.value(method, "hr@10")) is not None
        ]
        left.plot(
            [x for x, *_ in sorted(points)], [y for *_, y in sorted(points)],
            color=styles[method].color, lw=1.3, label=short(method),
        )  # fmt: skip
        for x, place, value in points:
            _mark(left, x, value, place, styles[method].color)
            if method in scores[place]:
                _mark(right, scores[place][method], value, place, styles[method].color)
    if by_size:
        left.set_xlabel("parameters of the encoders, millions")
        if max(sizes) / min(sizes) >= DECADES:
            left.set_xscale("log")
    else:
        turned = {"rotation": 18, "ha": "right"} if slanted else {}
        left.set_xticks(range(len(group)), [short(label, 26) for label in labels], **turned)
        left.set_xlim(-0.4, len(group) - 0.6)
    values = [value for comparison in group for m in methods if (value := comparison.value(m, "hr@10")) is not None]
    show_accuracy(left, values, "test HR@10")
    right.set_xlabel("TPME over all pairs; further left is cheaper")
    marks_legend(figure, labels, [INK] * len(labels))
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=LEGEND_COLUMNS, frameon=False)
    return figure


def _mark(axes: Axes, x: float, y: float, place: int, color: str) -> None:
    axes.plot(x, y, marker_at(place), color=color, ms=7, mec="white", mew=0.6)
