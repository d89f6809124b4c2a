"""Read tables of methods from CSV files written by hand; errors name the line and the column."""

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
    """Read a CSV file with the column method and columns of numbers; further columns are ignored.

    Args:
        path: The file, in UTF-8.
        columns: Names of the columns of numbers.

    Raises:
        UserError: the file is missing, unreadable, not UTF-8, empty or malformed, a column is missing or repeated, a
            value is not a finite number of at least 0, or a method is repeated. The message names the file and, if
            there is one, the line and the column.
    """
    lines = _csv_lines(path)
    if not lines:
        raise UserError(f"{path}: the file is empty; expected the columns method,{','.join(columns)}")
    (header_line, header), body = lines[0], lines[1:]
    indices = _column_indices(f"{path}: line {header_line}", [name.strip() for name in header], columns)
    if not body:
        raise UserError(f"{path}: the table has a header and no rows")
    rows: dict[str, dict[str, str | float]] = {}
    for line, cells in body:
        where = f"{path}: line {line}"
        if len(cells) != len(header):
            raise UserError(f"{where}: {len(cells)} values, but the header has {len(header)} columns")
        method = cells[indices["method"]].strip()
        if not method:
            raise UserError(f"{where}: column method is empty")
        if method in rows:
            raise UserError(f"{where}: method {method!r} is in the table twice")
        figures = {column: _number(f"{where}, column {column}", cells[indices[column]].strip()) for column in columns}
        rows[method] = {"method": method, **figures}
    return pd.DataFrame(list(rows.values()), columns=["method", *columns])


def _csv_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Records of a CSV file that are not blank, each with the number of its last line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    if "\0" in text:
        raise UserError(f"{path}: contains a NUL byte; not a text file")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((reader.line_num, cells))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
    return lines


def _column_indices(where: str, header: list[str], columns: Sequence[str]) -> dict[str, int]:
    """Index of each wanted column in the header."""
    wanted = ("method", *columns)
    for column in wanted:
        if header.count(column) > 1:
            raise UserError(f"{where}: column {column} is in the header twice")
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
        # Python accepts 1_000 as a number; spreadsheets do not.
        value = float(text.replace("_", "?"))
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {text} is not a finite number of at least 0")
    return value
