"""Tables for other programs: data frames for CSV, and LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import pandas as pd

from bench.records.columns import INTEGERS
from reports.analysis.comparison import Comparison
from reports.analysis.main_table import COLUMNS, Cell, Row, legend, rows
from reports.studies.study import Grid, Strong
from reports.text import escape_latex


def stem_of(name: str, comparison: Comparison) -> str:
    """Name of a file of a comparison without the extension."""
    return f"{name}-{comparison.slug}" if comparison.slug else name


def frame(comparison: Comparison) -> pd.DataFrame:
    """Main table as a data frame, a row per floor, method and ceiling, with unrounded seconds, bytes and shares.

    Each figure has its mean and the ends of its 95 % interval, which are missing if there is no interval.
    """
    table = pd.DataFrame([_plain(comparison, row) for row in rows(comparison)])
    whole = [name for name in table.columns if re.sub("_(low|high)$", "", name) in (*INTEGERS, "seeds")]
    table[whole] = table[whole].convert_dtypes()
    return table


def _plain(comparison: Comparison, row: Row) -> dict[str, Any]:
    measured = row.kind == "method"
    found: dict[str, Any] = {
        "method": row.name,
        "kind": row.kind,
        "seeds": comparison.seeds(row.name) if measured else None,
        "memory_source": comparison.summary.at[row.name, "memory_source"] if measured else None,
    }
    for column, cell in zip(COLUMNS, row.cells, strict=True):
        found[column.name] = cell.value
        if column.name != "tpme":
            found |= {f"{column.name}_low": cell.low, f"{column.name}_high": cell.high}
    return found


def latex(comparison: Comparison) -> str:
    """Main table as a LaTeX `table` with caption and label, for `\\input` in a paper."""
    found = rows(comparison)
    note = r" \textdagger{} A cell of this method has a warning." if any(row.warned for row in found) else ""
    caption = f"{escape_latex(comparison.title)}. {escape_latex(legend(comparison, ratios=False))}{note}"
    header = ["Method", *(escape_latex(column.title) for column in COLUMNS)]
    groups = ([_row(row) for row in group] for _, group in groupby(found, key=lambda row: row.kind))
    return _floating(caption, comparison.slug or "main", "l" + "r" * len(COLUMNS), header, groups)


def grid_frame(grid: Grid) -> pd.DataFrame:
    """Table of a study as a data frame of text, as in the report."""
    return pd.DataFrame([list(map(str, row)) for row in grid.rows], columns=list(grid.header))


def grid_latex(title: str, grid: Grid) -> str:
    """Table of a study as a LaTeX `table` with the title of the study as caption."""
    columns = "l" * grid.words + "r" * (len(grid.header) - grid.words)
    rows = [_line([rf"\textbf{{{escape_latex(c)}}}" if isinstance(c, Strong) else escape_latex(c) for c in row])
            for row in grid.rows]  # fmt: skip
    return _floating(escape_latex(title), grid.stem, columns, [*map(escape_latex, grid.header)], [rows])


def _floating(caption: str, label: str, columns: str, header: list[str], groups: Iterable[Sequence[str]]) -> str:
    """LaTeX `table` with a rule above each group of lines; caption and cells must be escaped already."""
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _line(header),
    ]
    for group in groups:
        lines += [r"\midrule", *group]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _line(cells: list[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _row(row: Row) -> str:
    name = escape_latex(row.name) + (r"\textsuperscript{\textdagger}" if row.warned else "")
    first, *others = [_cell(cell) for cell in row.cells]
    if not first and row.ended:
        first = rf"\textit{{{escape_latex(', '.join(row.ended))}}}"
    return _line([name if row.kind == "method" else rf"\textit{{{name}}}", first, *others])


def _cell(cell: Cell) -> str:
    text = rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text)
    return rf"{text} $\pm$ {escape_latex(cell.half)}" if cell.half else text
