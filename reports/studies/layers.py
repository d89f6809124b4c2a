"""Study: variants of a method that differ in the layers that they keep, over the number of layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from reports.analysis.comparison import Comparison
from reports.figures.accuracy_axis import drawn_accuracy, show_accuracy
from reports.figures.drawing import rendered
from reports.figures.style import NotDrawn, Style, new_figure, short, styles_of
from reports.studies.study import COSTS, Grid, Study, Variant, accuracy_of, costs_of, variants
from reports.text import escape

STEM = "layers"
FEWEST = 3
"""Smallest number of different numbers of layers: two make no curve."""
_MOST_TICKS = 8
_HEADROOM = 1.07
"""Factor on the top of an axis of costs, so that the marker of the highest point is not cut."""

Families = Mapping[str, Sequence[Variant]]


def study(comparison: Comparison, title: str, stem: str) -> Study | None:
    """Compare variants with fewer layers; None if no method was run with at least three numbers of layers."""
    families = _families(comparison)
    if not families:
        return None
    drawing = rendered(
        stem,
        "Accuracy and costs over the number of layers that are kept",
        "Bars are 95 % intervals. Layer 0, the embedding layer, is included in the number.",
        lambda: _figure(comparison, families),
    )
    return Study(title, [_grid(comparison, families, stem), _answer(comparison, families)], [drawing])


def _families(comparison: Comparison) -> Families:
    """Variants by kind, from most to fewest layers; the variants of a kind share all other options."""
    found: dict[tuple[str, str], list[Variant]] = {}
    for variant in variants(comparison):
        if variant.kept is not None:
            key = (variant.kind, json.dumps(variant.without("layers"), sort_keys=True))
            found.setdefault(key, []).append(variant)
    return {
        kind: sorted(members, key=lambda variant: -(variant.kept or 0))
        for (kind, _), members in found.items()
        if len({variant.kept for variant in members}) >= FEWEST and any("layers" in v.options for v in members)
    }


def _grid(comparison: Comparison, families: Families, stem: str) -> Grid:
    header = ["Method", "Layers kept", "Number", "HR@10", *(title for _, title, _ in COSTS)]
    rows = []
    for members in families.values():
        whole = members[0].method
        for variant in members:
            layers = variant.options.get("layers", "as usual")
            named = ", ".join(map(str, layers)) if isinstance(layers, list | tuple) else str(layers)
            rows.append(
                [
                    variant.method,
                    named,
                    str(variant.kept),
                    accuracy_of(comparison, variant.method),
                    *costs_of(comparison, variant.method, whole),
                ]
            )
    return Grid(stem, header, rows, words=2)


def _answer(comparison: Comparison, families: Families) -> str:
    """Result of the paired tests of each variant against the variant with most layers."""
    sentences = []
    for members in families.values():
        whole, *others = [variant.method for variant in members]
        tested = [(other, found) for other in others if (found := comparison.tested(other, whole))]
        if not tested:
            continue
        apart = [escape(other) for other, found in tested if found.shown]
        sentences.append(
            f"Variants with fewer layers that differ from {escape(whole)} in HR@10 over users, after Holm's "
            f"correction: {', '.join(apart) or 'none'} of {len(tested)}."
        )
    return " ".join([*sentences, "The number in brackets is the ratio to the variant with most layers."])


def _figure(comparison: Comparison, families: Families) -> Figure:
    panels = [
        ("hr@10", "test HR@10", 1),
        ("epoch_seconds", "seconds per epoch", 1),
        ("peak_memory_bytes", "peak memory, MiB", 2**20),
        ("trainable_params", "trainable parameters, thousands", 1000),
    ]
    if not any(
        comparison.value(v.method, column) for members in families.values() for v in members for column, *_ in panels
    ):
        raise NotDrawn("nothing was measured")
    methods = [variant.method for members in families.values() for variant in members if variant.kept]
    styles = styles_of(families)
    figure = new_figure(6.4)
    axes = figure.subplots(2, 2, sharex=True)
    figure.subplots_adjust(left=0.1, right=0.985, bottom=0.085, top=0.93, wspace=0.24, hspace=0.12)
    for place, (column, label, unit) in enumerate(panels):
        panel = axes[place // 2][place % 2]
        for kind, members in families.items():
            _line(panel, comparison, members, column, unit, styles[kind], short(kind))
        accuracy = drawn_accuracy(comparison, methods) if column == "hr@10" else []
        if accuracy:
            show_accuracy(panel, accuracy, label, random_weights=comparison.random_weights)
        else:
            panel.set_ylabel(label)
            panel.set_ylim(0, _HEADROOM * panel.get_ylim()[1])
        kept = sorted({variant.kept for members in families.values() for variant in members if variant.kept})
        panel.xaxis.set_major_locator(FixedLocator(kept) if len(kept) <= _MOST_TICKS else MaxNLocator(integer=True))
        if place >= 2:
            panel.set_xlabel("layers kept")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False)
    return figure


def _line(
    axes: Axes,
    comparison: Comparison,
    members: Sequence[Variant],
    column: str,
    unit: int,
    style: Style,
    label: str,
) -> None:
    points = [(v.kept, spread) for v in members if v.kept and (spread := comparison.spread(v.method, column))]
    bars = [(spread.half or 0.0) / unit for _, spread in points]
    axes.errorbar(
        [kept for kept, _ in points],
        [spread.mean / unit for _, spread in points],
        yerr=bars if any(bars) else None,
        color=style.color,
        marker=style.marker,
        ms=6 * style.size,
        lw=1.5,
        elinewidth=1,
        label=label,
    )
