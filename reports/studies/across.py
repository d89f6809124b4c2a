"""Studies across comparisons: one modality against both, and one pair of encoders against another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import comparable_costs
from reports.figures import style
from reports.figures.draw import rendered
from reports.figures.style import FAINT, INK, SOFT, NotDrawn, Styles, short
from reports.sections.accuracy import signed
from reports.studies.study import COSTS, Grid, Study, accuracy_of, alike, costs_of, setting
from reports.text import count, escape

MODELS = ("text_model", "image_model")
MODALITIES, BACKBONES = "modality", "backbones"
_SINGLE = ("#0072B2", "#E69F00")
_ROOM = 40
"""Letters that stand side by side below a panel of half the width."""
_COLUMNS = 4
"""Of a legend."""
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def by_modality(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons of one modality each and of both, that differ in nothing else: both last."""
    found = []
    for group in alike(comparisons, ("modality", *MODELS)):
        for both in (comparison for comparison in group if "+" in str(setting(comparison)["modality"])):
            single = [comparison for comparison in group if _part_of(comparison, both)]
            if single:
                found.append([*single, both])
    return found


def _part_of(comparison: Comparison, both: Comparison) -> bool:
    own, whole = setting(comparison), setting(both)
    if own["modality"] not in str(whole["modality"]).split("+"):
        return False
    return all(own[model] in (None, whole[model]) for model in MODELS)


def modalities(group: Sequence[Comparison], title: str, stem: str, _: Styles) -> Study:
    """Every method with one modality and with both."""
    names = [str(setting(comparison)["modality"]) for comparison in group]
    both = group[-1]
    header = [
        "Method",
        *(f"HR@10, {name}" for name in names),
        "both − better single",
        *(f"s per epoch, {n}" for n in names),
    ]
    rows = []
    for method in both.methods:
        values = [comparison.value(method, "hr@10") for comparison in group]
        single = [value for value in values[:-1] if value is not None]
        gain = "" if values[-1] is None or not single else signed(values[-1] - max(single))
        seconds = [costs_of(comparison, method)[0] for comparison in group]
        rows.append([method, *(accuracy_of(comparison, method) for comparison in group), gain, *seconds])
    drawing = rendered(
        stem,
        "Test HR@10 with one modality and with both",
        "Lines are 95 % intervals.",
        lambda: _modality_figure(group, names),
    )
    return Study(title, [Grid(stem, header, rows)], [drawing])


def _modality_figure(group: Sequence[Comparison], names: Sequence[str]) -> Figure:
    methods = [m for m in group[-1].drawn if any(comparison.value(m, "hr@10") is not None for comparison in group)]
    if not methods:
        raise NotDrawn("no HR@10 was measured")
    inches = 0.42 * len(methods) + 1.35
    figure = style.new_figure(inches)
    left = min(0.03 + 0.0105 * max(len(short(m)) for m in methods), 0.28)
    axes = figure.add_axes((left, 0.6 / inches, 0.97 - left, 1 - 1.2 / inches))
    colors = [*_SINGLE[: len(group) - 1], INK]
    for place, (comparison, color) in enumerate(zip(group, colors, strict=True)):
        for row, method in enumerate(methods):
            spread = comparison.spread(method, "hr@10")
            if spread is None:
                continue
            height = row + 0.16 * (place - (len(group) - 1) / 2)
            if spread.low is not None and spread.high is not None:
                axes.hlines(height, max(spread.low, 0), spread.high, color=color, lw=1.4, alpha=0.5)
            axes.plot(spread.mean, height, _MARKERS[place], color=color, ms=6.5, mec="white", mew=0.6)
    axes.set_yticks(range(len(methods)), [short(m) for m in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    lines = [("popularity", "popularity"), ("bayes", "Bayes ceiling")]
    known = [(words, value) for name, words in lines if (value := group[-1].reference(name, "hr@10")) is not None]
    for _, value in known:
        axes.axvline(value, color=FAINT, lw=1, ls=(0, (5, 3)))
    axes.set_xlim(left=0)
    for words, value in known:
        side = "right" if value > 0.85 * axes.get_xlim()[1] else "center"
        axes.annotate(f"{words} {value:.3f}", (value, 1), (0, 2), xycoords=("data", "axes fraction"), ha=side,
                      textcoords="offset points", color=SOFT, fontsize=8)  # fmt: skip
    axes.set_xlabel("test HR@10")
    _legend(figure, names, colors)
    return figure


def _legend(figure: Figure, names: Sequence[str], colors: Sequence[str]) -> None:
    handles = [
        Line2D([], [], ls="", marker=_MARKERS[place % len(_MARKERS)], color=color, label=short(name, 40))
        for place, (name, color) in enumerate(zip(names, colors, strict=True))
    ]
    figure.legend(handles=handles, loc="upper center", ncols=_COLUMNS, frameon=False)


def by_backbones(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Comparisons that differ in nothing but the encoders and their weights."""
    return [group for group in alike(comparisons, (*MODELS, "weights")) if len(group) > 1]


def backbones(group: Sequence[Comparison], title: str, stem: str, looks: Styles) -> Study:
    """Every method with every pair: sizes, accuracy, costs, and one TPME over all of them."""
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
        "One TPME over every method with every pair. A colour is a method, a mark a pair.",
        lambda: _backbone_figure(group, [_pair(comparison, brief=True) for comparison in group], scores, looks),
    )
    note = "The parameters of a model are all that a cell holds: a cached method does not load the encoders."
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
    """TPME of each method of each comparison in one comparison; none, and the reason, where it cannot be computed."""
    try:
        costs = {
            f"{place} {m}": row
            for place, comparison in enumerate(group)
            for m, row in comparable_costs(comparison).items()
        }
        sources = {str(s) for comparison in group for s in comparison.results["memory_source"].dropna()}
        if len(sources) > 1:
            raise UserError(f"memory was measured in different ways ({', '.join(sorted(sources))})")
        scores = group[0].options.tpme(costs)
    except UserError as error:
        return [{} for _ in group], f"TPME over all cannot be computed: {escape(error)}."
    return [
        {m: scores[f"{place} {m}"] for m in comparison.methods if f"{place} {m}" in scores}
        for place, comparison in enumerate(group)
    ], ""


def _encoder_size(comparison: Comparison) -> float | None:
    """Parameters of the encoders: what a cell holds and does not train, of the method that leaves most untrained.

    None where no method says: those that read a cache hold no encoder.
    """
    left = [
        total - trained
        for method in comparison.methods
        if (total := _size(comparison, method)) is not None
        and (trained := comparison.value(method, "trainable_params")) is not None
    ]
    return max(left, default=0) or None


def _backbone_figure(
    group: Sequence[Comparison], labels: Sequence[str], scores: Sequence[Mapping[str, float]], looks: Styles
) -> Figure:
    methods = list(dict.fromkeys(method for comparison in group for method in comparison.drawn))
    if not any(comparison.value(method, "hr@10") is not None for comparison in group for method in methods):
        raise NotDrawn("no HR@10 was measured")
    figure = style.new_figure(4.9)
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = [size / 1e6 for comparison in group if (size := _encoder_size(comparison))]
    by_size = len(sizes) == len(group) and len(set(sizes)) > 1
    xs = sizes if by_size else list(range(len(group)))
    slanted = not by_size and sum(len(short(label, 26)) for label in labels) > _ROOM
    bottom = (0.22 if slanted else 0.14) + 0.055 * math.ceil(len(methods) / _COLUMNS)
    figure.subplots_adjust(left=0.085, right=0.985, bottom=bottom, top=0.9, wspace=0.06)
    for method in methods:
        points = [
            (xs[place], place, value)
            for place, comparison in enumerate(group)
            if (value := comparison.value(method, "hr@10")) is not None
        ]
        left.plot(
            [x for x, *_ in sorted(points)], [y for *_, y in sorted(points)],
            color=looks[method].color, lw=1.3, label=short(method),
        )  # fmt: skip
        for x, place, value in points:
            _mark(left, x, value, place, looks[method].color)
            if method in scores[place]:
                _mark(right, scores[place][method], value, place, looks[method].color)
    if by_size:
        left.set_xlabel("parameters of the encoders, millions")
        if max(sizes) / min(sizes) >= style.DECADES:
            left.set_xscale("log")
    else:
        turned = {"rotation": 18, "ha": "right"} if slanted else {}
        left.set_xticks(range(len(group)), [short(label, 26) for label in labels], **turned)
        left.set_xlim(-0.4, len(group) - 0.6)
    left.set_ylim(bottom=0)
    left.set_ylabel("test HR@10")
    right.set_xlabel("TPME over all pairs; further left is cheaper")
    _legend(figure, labels, [INK] * len(labels))
    figure.legend(*left.get_legend_handles_labels(), loc="lower center", ncols=_COLUMNS, frameon=False)
    return figure


def _mark(axes: Axes, x: float, y: float, place: int, color: str) -> None:
    axes.plot(x, y, _MARKERS[place % len(_MARKERS)], color=color, ms=7, mec="white", mew=0.6)
