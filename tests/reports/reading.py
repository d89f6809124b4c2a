"""Build reports of synthetic runs, and read tables from their Markdown."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from reports.analysis.comparison import split_into_comparisons
from reports.analysis.tables import results, summary
from reports.build import build
from reports.load.run_folders import load_run
from reports.render.markdown import chapters, report
from tests.reports.factory import make_run

PARSER = MarkdownIt("commonmark").enable("table")


def report_of(path: Path, **arguments: Any) -> str:
    """Text of report.md of a synthetic run."""
    make_run(path, **arguments)
    build([path], path)
    return (path / "report.md").read_text(encoding="utf-8")


def text_of(path: Path, **arguments: Any) -> str:
    """Text of the report of a synthetic run without its figures, which take most of the time."""
    return text_from(make_run(path, **arguments))


def text_from(path: Path) -> str:
    run = load_run(path)
    cells = results(run.records)
    compared = split_into_comparisons([run], run.records, cells, summary(cells))
    return report([run], chapters([run], compared, [[] for _ in compared], [], path))


def images(text: str) -> list[str]:
    tokens = [child for token in PARSER.parse(text) for child in token.children or []]
    return [str(token.attrs["src"]) for token in tokens if token.type == "image"]


def tables(text: str) -> list[list[list[str]]]:
    """All tables of a report as rows of cells."""
    found: list[list[list[str]]] = []
    tokens = PARSER.parse(text)
    for token, inside in itertools.pairwise(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in {"td_open", "th_open"}:
            found[-1][-1].append(inside.content)
    return found


def row_of(text: str, name: str) -> list[str]:
    return next(row for row in tables(text)[0] if row[0].strip("_") == name)
