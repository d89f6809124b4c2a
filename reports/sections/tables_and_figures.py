"""Main table, table of failed cells and figures of a comparison, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from reports.analysis.comparison import Comparison
from reports.analysis.main_table import COLUMNS, WARNED, Cell, Row, legend, rows
from reports.figures.drawing import Drawing
from reports.text import escape, table


def main_table(comparison: Comparison) -> str:
    """Main table: floors, methods, ceilings; costs and accuracy with ± and with the ratio to `fft`."""
    header = ["Method", *(column.title for column in COLUMNS)]
    found = rows(comparison)
    warned = any(row.warned for row in found)
    note = f" {WARNED} A cell of this method has a warning, see [Warnings](#warnings)." if warned else ""
    return f"{table(header, [_row(row) for row in found])}\n\n{escape(legend(comparison))}{note}"


def _row(row: Row) -> list[str]:
    if row.kind != "method":
        return [f"_{row.name}_", *(f"_{cell.text}_" if cell.text else "" for cell in row.cells)]
    first, *others = [_cell(cell) for cell in row.cells]
    name = f"{escape(row.name)} {WARNED}" if row.warned else escape(row.name)
    return [name, first or ", ".join(f"_{escape(status)}_" for status in row.ended), *others]


def _cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    half = f" ± {cell.half}" if cell.half else ""
    return f"{text}{half} ({cell.ratio})" if cell.ratio else f"{text}{half}"


def failures(comparison: Comparison) -> str:
    """Table of the cells that did not end ok; empty if there are none."""
    broken = comparison.results[comparison.results["status"] != "ok"]
    if broken.empty:
        return ""
    listed = [
        [
            escape(row["cell_id"]),
            escape(row["status"]),
            escape(row["error"], limit=300) if isinstance(row["error"], str) else "",
        ]
        for _, row in broken.iterrows()
    ]
    return table(["Cell that did not end ok", "Status", "Error"], listed, numbers_from=3)


def figures(drawings: Sequence[Drawing]) -> str:
    """Figures with their captions; for a figure that could not be drawn, the reason."""
    parts = []
    for drawing in drawings:
        if drawing.png is None:
            parts.append(f"_{drawing.title}: not drawn, {escape(drawing.reason)}._")
        else:
            parts.append(f"![{drawing.title}](figures/{drawing.stem}.png)\n\n_{drawing.title}. {drawing.caption}_")
    return "\n\n".join(parts)
