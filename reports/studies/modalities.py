"""Study: every method with one modality alone and with both."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from reports.analysis.comparison import Comparison
from reports.figures.accuracy_axis import drawn_accuracy, edge_label, reference_lines, show_accuracy
from reports.figures.drawing import rendered
from reports.figures.labels import marker_at, marks_legend
from reports.figures.style import INK, SOFT, NotDrawn, Styles, new_figure, short
from reports.sections.accuracy import signed
from reports.studies.study import MODELS, Grid, Study, accuracy_of, alike, costs_of, setting

STEM = "modality"
_SINGLE = ("#0072B2", "#E69F00")


def by_modality(comparisons: Sequence[Comparison]) -> list[list[Comparison]]:
    """Groups of comparisons that differ in the modality alone: single modalities first, both modalities last."""
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


def study(group: Sequence[Comparison], title: str, stem: str, _: Styles) -> Study:
    """Compare every method with one modality and with both."""
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
        "Horizontal lines are 95 % intervals.",
        lambda: _figure(group, names),
    )
    return Study(title, [Grid(stem, header, rows)], [drawing])


def _figure(group: Sequence[Comparison], names: Sequence[str]) -> Figure:
    methods = [m for m in group[-1].drawn if any(comparison.value(m, "hr@10") is not None for comparison in group)]
    if not methods:
        raise NotDrawn("no HR@10 was measured")
    inches = 0.42 * len(methods) + 1.35
    figure = new_figure(inches)
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
            axes.plot(spread.mean, height, marker_at(place), color=color, ms=6.5, mec="white", mew=0.6)
    axes.set_yticks(range(len(methods)), [short(m) for m in methods])
    axes.set_ylim(len(methods) - 0.4, -0.6)
    lines = reference_lines(group[-1])
    values = [value for comparison in group for value in drawn_accuracy(comparison, methods)]
    show_accuracy(axes, values, "test HR@10", references=lines, along="x")
    low, high = axes.get_xlim()
    for name, value in lines.items():
        edge = min(max(value, low), high)
        share = (edge - low) / (high - low)
        side = "right" if share > 0.85 else "left" if share < 0.15 else "center"
        axes.annotate(edge_label(name, value, low, high, "←→"), (edge, 1), (0, 2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha=side, color=SOFT, fontsize=8)  # fmt: skip
    marks_legend(figure, names, colors)
    return figure
