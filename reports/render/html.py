"""report.html: one file without network access, with sortable tables and a TPME whose weights can be moved."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.scoring import tpme
from bench.utils.errors import UserError
from reports.analysis import main_table
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import comparable_costs, trade_off
from reports.figures.accuracy_axis import accuracy_range, drawn_accuracy, edge_label, reference_lines
from reports.figures.drawing import Drawing
from reports.figures.style import Styles, on_dark
from reports.load.run_folders import Run
from reports.render.html_parts import anchor, plain, to_html
from reports.render.markdown import Chapter, title

_FOLDER = Path(__file__).parent / "page"

MOST_WITH_FIGURES = 12
"""Largest number of comparisons whose figures are in the page; with more there are links instead of figures."""
MOST_OPEN = 3
"""Largest number of comparisons that are shown open; with more, each is folded."""


def page(runs: Sequence[Run], parts: Sequence[Chapter], drawings: Sequence[Sequence[Drawing]], styles: Styles) -> str:
    """Render the whole page.

    Args:
        runs: Runs that were merged into the report.
        parts: Chapters of `reports.render.markdown.chapters`, at least one about a comparison.
        drawings: Figures that the chapters name.
        styles: Style of every method.
    """
    comparisons = [part.comparison for part in parts if part.comparison is not None]
    style_sheet = _own("page.css") + _dark_colors(styles)
    script = _own("page.js")
    pictures = {drawing.stem: drawing for drawn in drawings for drawing in drawn}
    if len(comparisons) > MOST_WITH_FIGURES:
        pictures = {}
    places = {id(comparison): place for place, comparison in enumerate(comparisons)}
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "sort_keys": False}
    return environment.get_template("report.html.j2").render(
        title=plain(title(runs)),
        style_sheet=Markup(style_sheet),
        script=Markup(script),
        policy=_policy(style_sheet, script),
        chapters=[_chapter(chapter, pictures, places) for chapter in parts],
        columns=main_table.COLUMNS,
        warned=main_table.WARNED,
        tables=[main_table.rows(comparison) for comparison in comparisons],
        folded=len(comparisons) > MOST_OPEN,
        data={
            "weights": list(comparisons[0].options.weights),
            "comparisons": [_comparison_data(comparison, styles) for comparison in comparisons],
        },
    )


def _own(name: str) -> str:
    """Read a trusted file of the page, which needs no escaping."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(style_sheet: str, script: str) -> str:
    """Content security policy that forbids all loading and all scripts but the one of the page."""
    return (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style_sheet)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _dark_colors(styles: Styles) -> str:
    """CSS rules that replace the colours of methods by lighter ones on a dark page."""
    colors = sorted({style.color for style in styles.values()})
    return "".join(
        f'[{kind}="{shade}"] {{ {kind}: light-dark({color}, {on_dark(color)}); }}\n'
        for color in colors
        for shade in dict.fromkeys([color, color.lower()])
        for kind in ("fill", "stroke")
    )


def _chapter(chapter: Chapter, pictures: Mapping[str, Drawing], places: Mapping[int, int]) -> dict[str, Any]:
    name = plain(chapter.title)
    own = chapter.parts if chapter.comparison is None else chapter.parts[1:]
    place = None if chapter.comparison is None else places[id(chapter.comparison)]
    return {
        "title": name,
        "anchor": anchor(name) if place is None else f"comparison-{place + 1}",
        "place": place,
        "legend": "" if chapter.comparison is None else main_table.legend(chapter.comparison),
        "body": Markup(to_html("\n\n".join(part for part in own if part), pictures, name)),
    }


def _comparison_data(comparison: Comparison, styles: Styles) -> dict[str, Any]:
    """Data of a comparison for the script of the page."""
    costs, reason = _costs(comparison)
    pinned = comparison.options.reference
    return {
        "title": comparison.title,
        "reason": reason,
        "low": None if pinned is None else [min(row[name] for row in pinned.values()) for name in tpme.COLUMNS],
        "high": None if pinned is None else [max(row[name] for row in pinned.values()) for name in tpme.COLUMNS],
        "meaningless": comparison.random_weights,
        **_accuracy_axis(comparison, costs),
        "methods": [
            _method(comparison, row, costs.get(row.name), styles)
            for row in main_table.rows(comparison)
            if row.kind == "method"
        ],
    }


def _accuracy_axis(comparison: Comparison, methods: Iterable[str]) -> dict[str, Any]:
    """Range of the axis of accuracy, the same as in the figures, with the label and height of each line."""
    lines = reference_lines(comparison)
    values = drawn_accuracy(comparison, methods)
    low, high = accuracy_range(values, lines.values()) if values else (0.0, 1.0)
    named = [{"label": edge_label(name, value, low, high), "value": value} for name, value in lines.items()]
    return {"range": [low, high], "lines": named}


def _costs(comparison: Comparison) -> tuple[dict[str, dict[str, float]], str]:
    """Costs of the methods that the TPME compares; empty with the reason if the TPME cannot be computed."""
    try:
        trade_off(comparison)
    except UserError as error:
        return {}, f"TPME cannot be computed: {error}."
    return comparable_costs(comparison), ""


def _method(
    comparison: Comparison, row: main_table.Row, costs: Mapping[str, float] | None, styles: Styles
) -> dict[str, Any]:
    spread = comparison.spread(row.name, "hr@10")
    return {
        "name": row.name,
        "costs": None if costs is None else [costs[name] for name in tpme.COLUMNS],
        "accuracy": None if spread is None else spread.mean,
        "low": None if spread is None or spread.low is None else max(spread.low, 0.0),
        "high": None if spread is None or spread.high is None else min(spread.high, 1.0),
        "color": styles[row.name].color,
        "marker": styles[row.name].marker,
        "facts": [
            f"{column.title}: {cell.text}{f' ± {cell.half}' if cell.half else ''}"
            for column, cell in zip(main_table.COLUMNS, row.cells, strict=True)
            if cell.text and column.name != "tpme"
        ],
    }
