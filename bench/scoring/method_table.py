"""Tables of methods that people write: CSV files, every mistake in them named with its line and column."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.utils.errors import UserError


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file with the column method and columns of numbers; further columns are left aside.

    Args:
        path: The file, in UTF-8.
        columns: Those of the numbers.

    Raises:
        UserError: names the file, and the line and column where there is one: file missing or unreadable, not UTF-8,
            empty, malformed, columns missing or twice, a value that is no finite number of at least 0, a method twice.
    """
    lines = _csv_lines(path)
    if not lines:
        raise UserError(f"{path}: the file is empty; expected the columns method,{','.join(columns)}")
    (header_line, header), body = lines[0], lines[1:]
    places = _places(f"{path}: line {header_line}", [name.strip() for name in header], columns)
    if not body:
        raise UserError(f"{path}: no row below the header")
    rows: dict[str, dict[str, str | float]] = {}
    for line, cells in body:
        where = f"{path}: line {line}"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} values, but the header has {len(header)} columns")
        method = cells[places["method"]].strip()
        if not method:
            raise UserError(f"{where}: column method is empty")
        if method in rows:
            raise UserError(f"{where}: method {method!r} stands in the table twice")
        figures = {column: _number(f"{where}, column {column}", cells[places[column]].strip()) for column in columns}
        rows[method] = {"method": method, **figures}
    return pd.DataFrame(list(rows.values()), columns=["method", *columns])


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The records of a CSV file that are not blank, each with the number of the line that it ends on."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise UserError(f"{path}: holds a NUL byte; not a text file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    return lines


def _places(where: str, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    """Where each wanted column stands in the header."""
    wanted = ("method", *columns)
    for column in wanted:
        if header.count(column) > 1:
            raise UserError(f"{where}: column {column} stands in the header twice")
        if column not in header:
            spare = [name for name in header if name not in wanted]
            close = difflib.get_close_matches(column, spare, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the header has {', '.join(header)!r}"
            raise UserError(f"{where}: column {column} is missing; {hint}")
    return {column: header.index(column) for column in wanted}


def _number(where: str, text: str) -> float:
    if not text:
        raise UserError(f"{where}: the value is missing")
    try:
        # Python would take 1_000 for a number; no spreadsheet does.
        value = float(text.replace("_", "?"))
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {text} is not a finite number of at least 0")
    return value
