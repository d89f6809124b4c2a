"""All studies that the cells of a report make possible, each under a heading of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reports.analysis.comparison import Comparison, slug
from reports.figures.style import Styles
from reports.studies import ablation, across, gates, layers, ranking
from reports.studies.study import Study

Make = Callable[[Sequence[Comparison], str, str, Styles], Study]

STEMS = (layers.STEM, ablation.STEM, gates.STEM, across.MODALITIES, across.BACKBONES, ranking.STEM)
"""What the names of their figures and tables begin with."""


def studies(comparisons: Sequence[Comparison], looks: Styles) -> list[Study]:
    """Within each comparison, then across them; `looks` has a style for each of their methods."""
    alone = len(comparisons) == 1
    found: list[Study | None] = []
    for comparison in comparisons:
        about = "" if alone else f": {comparison.title}"
        own = f"-{comparison.slug}" if comparison.slug else ""
        found += [
            layers.study(comparison, f"Which layers are kept{about}", f"{layers.STEM}{own}"),
            ablation.study(comparison, f"Ablation{about}", f"{ablation.STEM}{own}"),
            gates.study(comparison, f"Gates{about}", f"{gates.STEM}{own}"),
        ]
    found += _across(
        across.by_modality(comparisons), "One modality and both", across.MODALITIES, across.modalities, looks
    )
    found += _across(across.by_backbones(comparisons), "Encoders", across.BACKBONES, across.backbones, looks)
    found += _across(ranking.by_dataset(comparisons), "Over datasets", ranking.STEM, ranking.study, looks)
    return [study for study in found if study is not None]


def _across(groups: Sequence[Sequence[Comparison]], question: str, stem: str, make: Make, looks: Styles) -> list[Study]:
    if len(groups) == 1:
        return [make(groups[0], question, stem, looks)]
    titles = [group[-1].title for group in groups]
    return [
        make(group, f"{question}: {title}", f"{stem}-{place}-{slug(title)}", looks)
        for place, (group, title) in enumerate(zip(groups, titles, strict=True), 1)
    ]
