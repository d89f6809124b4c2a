"""Build reports of synthetic runs, and read tables from their Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markdown_it import MarkdownIt

from reports.analysis.comparison import Comparison, split_into_comparisons
from reports.analysis.options import DEFAULT, Options
from reports.analysis.tables import results, summary
from reports.build import build
from reports.load.run_folders import Record, load_run
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


def min_max(values: dict[str, float]) -> dict[str, float]:
    low, high = min(values.values()), max(values.values())
    return {name: (value - low) / (high - low) for name, value in values.items()}


def plain_tpme(rows: pd.DataFrame) -> dict[str, float]:
    parts = [
        min_max({row["method"]: float(row[column]) for _, row in rows.iterrows()})
        for column in ("epoch_seconds", "trainable_params", "peak_memory_bytes")
    ]
    return {name: 0.45 * parts[0][name] + 0.10 * parts[1][name] + 0.45 * parts[2][name] for name in parts[0]}


def read_comparison(path: Path, records: Sequence[Record] | None = None, options: Options = DEFAULT) -> Comparison:
    run = load_run(path)
    known = run.records if records is None else records
    cells = results(known, options)
    (comparison,) = split_into_comparisons([run], known, cells, summary(cells, options), options)
    return comparison


def comparison_of(path: Path, **arguments: Any) -> Comparison:
    return read_comparison(make_run(path, **arguments))
