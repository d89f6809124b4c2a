"""HTML pages of synthetic runs, without the figures, which take most of the time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reports.analysis.comparison import split_into_comparisons
from reports.analysis.options import DEFAULT, Options
from reports.analysis.tables import results, summary
from reports.figures.drawing import Drawing
from reports.figures.style import styles_of
from reports.load.run_folders import load_run, merge
from reports.render.html import page
from reports.render.markdown import chapters


@dataclass(frozen=True)
class Large:
    """Page of 50 comparisons of eight methods."""

    text: str
    seconds: float
    """Processor time to make the page, in seconds."""


def page_from(folders: list[Path], options: Options = DEFAULT) -> str:
    """HTML page of some runs, without their figures."""
    runs = [load_run(folder) for folder in folders]
    records, notes = merge(runs)
    cells = results(records, options)
    methods = summary(cells, options)
    compared = split_into_comparisons(runs, records, cells, methods, options)
    nothing: list[list[Drawing]] = [[] for _ in compared]
    return page(runs, chapters(runs, compared, nothing, notes, folders[0]), nothing, styles_of(methods["method"]))
