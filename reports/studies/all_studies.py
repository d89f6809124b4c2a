"""All studies that the cells of a report allow, each under a heading of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reports.analysis.comparison import Comparison, slug
from reports.figures.style import Styles
from reports.studies import ablation, attributes, backbones, gates, layers, modalities, ranking
from reports.studies.study import Study

Make = Callable[[Sequence[Comparison], str, str, Styles], Study]

STEMS = (attributes.STEM, layers.STEM, ablation.STEM, gates.STEM, modalities.STEM, backbones.STEM, ranking.STEM)
"""Beginnings of the names of the figures and tables of studies."""


def studies(comparisons: Sequence[Comparison], styles: Styles) -> list[Study]:
    """Studies within each comparison, then studies across comparisons.

    Args:
        comparisons: Comparisons of the report.
        styles: Style of each of their methods.
    """
    alone = len(comparisons) == 1
    found: list[Study | None] = []
    for comparison in comparisons:
        about = "" if alone else f": {comparison.title}"
        own = f"-{comparison.slug}" if comparison.slug else ""
        found += [
            attributes.study(comparison, f"Where the accuracy comes from{about}", f"{attributes.STEM}{own}"),
            layers.study(comparison, f"Which layers are kept{about}", f"{layers.STEM}{own}"),
            ablation.study(comparison, f"Ablation{about}", f"{ablation.STEM}{own}"),
            gates.study(comparison, f"Gates{about}", f"{gates.STEM}{own}"),
        ]
    found += _across(
        modalities.by_modality(comparisons), "One modality and both", modalities.STEM, modalities.study, styles
    )
    found += _across(backbones.by_backbones(comparisons), "Encoders", backbones.STEM, backbones.study, styles)
    found += _across(ranking.by_dataset(comparisons), "Over datasets", ranking.STEM, ranking.study, styles)
    return [study for study in found if study is not None]


def _across(
    groups: Sequence[Sequence[Comparison]], question: str, stem: str, make: Make, styles: Styles
) -> list[Study]:
    if len(groups) == 1:
        return [make(groups[0], question, stem, styles)]
    titles = [group[-1].title for group in groups]
    return [
        make(group, f"{question}: {title}", f"{stem}-{place}-{slug(title)}", styles)
        for place, (group, title) in enumerate(zip(groups, titles, strict=True), 1)
    ]
