"""Format numbers for readers, and sanitise text from data for Markdown, HTML, LaTeX and spreadsheets."""

from __future__ import annotations

import html
import re
import unicodedata

import pandas as pd

from bench.utils.text import guarded

_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$#!])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_AT_LINE_START = re.compile(r"^(?:([-+=])|(\d{1,9})([.)])(?=\s|$))")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\texttt{\char34}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    # At the start of a row these would be arguments of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": "$-$",
    "√": r"$\surd$",
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
    **{character: f"\\{character}" for character in "{}$&#_%"},
}


def escape(value: object, limit: int | None = None) -> str:
    """Escape text from data for Markdown: it shows literally and on one line, also in a cell of a table.

    Control characters and characters that change the direction of text are removed; line breaks become spaces. Text
    longer than `limit` characters is cut and ends in an ellipsis.
    """
    text = visible(str(value))
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    text = "".join(_ENTITIES.get(character, character) for character in text)
    text = _SPECIAL.sub(r"\\\1", text)
    # GitHub makes links of bare addresses; an address that a cell wrote must not become one.
    text = re.sub(r"(?i)(https?|ftp)(:)(?=//)", r"\1\\\2", text)
    text = re.sub(r"(?i)\bwww\.", lambda match: match.group()[:-1] + "\\.", text)
    return _AT_LINE_START.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}", text)


def escape_html(value: object) -> str:
    """Escape text from data for HTML: it shows literally and on one line, in text and in a quoted attribute."""
    return html.escape(visible(str(value)), quote=True)


def escape_latex(value: object) -> str:
    """Escape text from data for LaTeX in text mode: it is set literally and on one line."""
    literal = "".join(_LATEX.get(character, character) for character in visible(str(value)))
    return re.sub("-(?=-)", "-{}", literal)  # LaTeX makes a dash of several hyphens


def visible(text: str) -> str:
    """Text on one line, without control characters and without characters that change the direction of text."""
    return " ".join("".join(_visible(character) for character in text).split())


def _visible(character: str) -> str:
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) in {"Cc", "Cf", "Cs"} else character


def code_block(text: str) -> str:
    """A fenced code block of Markdown whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def table(header: list[str], rows: list[list[str]], numbers_from: int = 1) -> str:
    """A Markdown table; its cells must be escaped already. Columns from `numbers_from` on are right-aligned."""
    rule = ["---" if place < numbers_from else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def guard_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before each text and column name that a spreadsheet would run as a formula.

    Numbers stay numbers. Halves of surrogate pairs, which UTF-8 cannot hold, become question marks.
    """
    safe = frame.rename(columns=lambda name: _guarded(str(name)))
    for place in range(frame.shape[1]):
        if not pd.api.types.is_numeric_dtype(frame.dtypes.iloc[place]):
            safe.isetitem(place, frame.iloc[:, place].map(_guarded, na_action="ignore").array)
    return safe


def _guarded(text: object) -> object:
    if not isinstance(text, str):
        return text
    # pandas quotes cells that hold a line feed, but not cells that hold a carriage return, which ends a row as well.
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return guarded(lines.encode("utf-8", "replace").decode("utf-8"))


def number(value: float) -> str:
    """A number with three significant digits and separators of thousands: 0.0123, 4.56, 78.9, 12,300."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    if abs(value) < 0.001:
        return f"{value:.2e}"
    text = f"{float(f'{value:.3g}'):#.3g}"
    return text.rstrip(".")


def count(value: float) -> str:
    """A whole number with separators of thousands."""
    return f"{round(value):,}"


UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
"""Units of bytes, each 1,024 times the one before."""


def size(value: float) -> str:
    """A number of bytes in the binary unit that suits it, for instance `4.81 MiB`."""
    unit = "B"
    for unit in UNITS:
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "B" else f"{number(value)} {unit}"


def amount(value: float, unit: str) -> str:
    """A number with its unit and a decimal prefix, for instance `2.45 GFLOP`."""
    prefix = ""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 1000 or prefix == "P":
            break
        value /= 1000
    return f"{number(value)} {prefix}{unit}"


def ratio(value: float, base: float) -> str:
    """Value divided by base, for instance `0.84×`."""
    times = value / base
    if times >= 100:
        return f"{times:,.0f}×"
    if times >= 10:
        return f"{times:.1f}×"
    return f"{times:.2f}×" if times >= 0.095 else f"{times:.2g}×"


def listing(words: list[str]) -> str:
    """Join words, at least one, for a sentence: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
