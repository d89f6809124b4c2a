"""Pages of synthetic runs, without the figures that take most of the time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports.blocks import blocks
from reports.figures import Drawing
from reports.html import page
from reports.load import load_run, merge
from reports.markdown import chapters
from reports.options import DEFAULT, Options
from reports.style import styles
from reports.tables import results, summary


@dataclass(frozen=True)
class Large:
    """A page of 50 comparisons of eight methods."""

    text: str
    seconds: float
    """Of processor time to make it."""


def page_from(folders: list[Path], options: Options = DEFAULT) -> str:
    """The page of some runs, without their figures."""
    runs = [load_run(folder) for folder in folders]
    records, notes = merge(runs)
    cells = results(records, options)
    methods = summary(cells, options)
    compared = blocks(runs, records, cells, methods, options)
    nothing: list[list[Drawing]] = [[] for _ in compared]
    return page(runs, chapters(runs, compared, nothing, notes, folders[0]), nothing, styles(methods["method"]))
