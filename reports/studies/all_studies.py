"""All studies that the cells of a report make possible, each under a heading of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reports.analysis.comparison import Block, slug
from reports.figures.style import Styles
from reports.studies import ablation, across, gates, layers, ranking
from reports.studies.study import Study

Make = Callable[[Sequence[Block], str, str, Styles], Study]

STEMS = (layers.STEM, ablation.STEM, gates.STEM, across.MODALITIES, across.BACKBONES, ranking.STEM)
"""What the names of their figures and tables begin with."""


def studies(blocks: Sequence[Block], looks: Styles) -> list[Study]:
    """Within each comparison, then across them; `looks` has a style for each of their methods."""
    alone = len(blocks) == 1
    found: list[Study | None] = []
    for block in blocks:
        about = "" if alone else f": {block.title}"
        own = f"-{block.slug}" if block.slug else ""
        found += [
            layers.study(block, f"Which layers are kept{about}", f"{layers.STEM}{own}"),
            ablation.study(block, f"Ablation{about}", f"{ablation.STEM}{own}"),
            gates.study(block, f"Gates{about}", f"{gates.STEM}{own}"),
        ]
    found += _across(across.by_modality(blocks), "One modality and both", across.MODALITIES, across.modalities, looks)
    found += _across(across.by_backbones(blocks), "Encoders", across.BACKBONES, across.backbones, looks)
    found += _across(ranking.by_dataset(blocks), "Over datasets", ranking.STEM, ranking.study, looks)
    return [study for study in found if study is not None]


def _across(groups: Sequence[Sequence[Block]], question: str, stem: str, make: Make, looks: Styles) -> list[Study]:
    if len(groups) == 1:
        return [make(groups[0], question, stem, looks)]
    titles = [group[-1].title for group in groups]
    return [
        make(group, f"{question}: {title}", f"{stem}-{place}-{slug(title)}", looks)
        for place, (group, title) in enumerate(zip(groups, titles, strict=True), 1)
    ]
