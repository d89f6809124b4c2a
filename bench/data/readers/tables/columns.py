"""Reading of named columns of a CSV, TSV or parquet file in chunks of rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from bench.data.readers.tables.arrow_text import arrow_text
from bench.utils.errors import UserError

if TYPE_CHECKING:
    from _csv import Reader

    Series = pd.Series[Any]

CHUNK_ROWS = 1 << 17
"""Rows of a chunk: some 50 MB as text, whatever the size of the file."""
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class TableFile:
    """Path and format of a table."""

    path: Path
    columns: Mapping[str, str]
    """Role of a column -> its name in the file."""
    separator: str = ","
    quoted: bool = True
    """True if fields may be in quotation marks."""
    names: tuple[str, ...] = ()
    """Columns of a file without a header. If it is not `quoted` either, the last column is the rest of the line."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some rows of a table. Values are strings, empty where a value is missing; times of parquet keep their type."""

    path: Path
    first: int
    """Number of the first row, counted from 1 after the header."""
    frame: pd.DataFrame
    """One column per entry of `TableFile.columns`, named by its role."""
    short: Sequence[int] = ()
    """Rows with fewer fields than the file has columns, as places in the frame; their last values are empty."""
    broken: Mapping[int, Sequence[Mapping[str, str]]] = field(default_factory=dict)
    """Rows with a line break inside quotation marks, as places in the frame -> lines within that have as many fields as
    the file has columns, by role: rows that a quotation mark without a partner may have swallowed."""

    def place(self, row: int) -> str:
        """Place of a row of this chunk, for messages."""
        return f"{self.path}: row {self.first + row}"

    def text(self, column: str) -> Series:
        """Column as strings."""
        return self.frame[column]


def read_chunks(file: TableFile) -> Iterator[Chunk]:
    """Yields all rows of the file, `CHUNK_ROWS` at a time.

    Raises:
        UserError: the file is absent, not UTF-8 or malformed, lacks a column, or is parquet and pyarrow is absent; the
            message names the file.
    """
    first = 1
    for chunk in _parquet(file) if is_parquet(file.path) else _lines(file) if _is_plain(file) else _text(file):
        yield replace(chunk, first=first)
        first += len(chunk.frame)


def _is_plain(file: TableFile) -> bool:
    return bool(file.names) and not file.quoted


def is_parquet(path: Path) -> bool:
    """True if the suffix of the file is ``.parquet``."""
    return path.suffix.lower() == ".parquet"


def header(path: Path, separator: str = ",", quoted: bool = True) -> list[str]:
    """Names of the columns of a file.

    Raises:
        UserError: as :func:`read_chunks`, or two columns have the same name.
    """
    names = list(_open_parquet(path).schema_arrow.names) if is_parquet(path) else _first_row(path, separator, quoted)
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: two columns are named {name!a}")
    return names


def _first_row(path: Path, separator: str, quoted: bool) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(_LONGEST_HEADER)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read: not UTF-8 text") from error
    if not line.strip():
        raise UserError(f"{path}: empty file, or an empty first line instead of the names of the columns")
    if not quoted:
        return line.rstrip("\r\n").split(separator)
    try:
        return next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        raise UserError(f"{path}: line 1: {error}") from error


def _text(file: TableFile) -> Iterator[Chunk]:
    """Chunks of a file of separated fields. A row has at most as many fields as the file has columns."""
    path = file.path
    if file.names:
        _first_row(path, file.separator, file.quoted)  # raises UserError for a file that is empty or not text
    names = file.names or header(path, file.separator, file.quoted)
    _check(file, names)
    places = [names.index(name) for name in file.columns.values()]
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=file.separator, quoting=quoting, strict=True)
            if not file.names:
                next(reader)
            rows = _rows(path, reader, len(names))
            read = reader.line_num
            while part := list(islice(rows, CHUNK_ROWS)):
                yield _chunk(file, part, places, len(names), one_line_each=reader.line_num - read == len(part))
                read = reader.line_num
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _rows(path: Path, reader: Reader, width: int) -> Iterator[list[str]]:
    """Rows of a file, without empty lines. Raises UserError with the line that a bad row starts in."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(f"{path}: line {line}: {_csv_reason(error)}") from error
        if len(row) > width:
            raise UserError(f"{path}: line {line}: {len(row)} fields, but the file has {width} columns")
        if len(row) > 1 or (row and row[0].strip()):
            yield row


def _csv_reason(error: csv.Error) -> str:
    if "field limit" in str(error):
        return f"a field of more than {csv.field_size_limit():,} characters; is its quotation mark closed?"
    return (
        "a quotation mark opens a field and none closes it at the end of a field; inside a field in quotation marks, "
        "a quotation mark is written twice"
    )


def _chunk(file: TableFile, rows: list[list[str]], places: Sequence[int], width: int, one_line_each: bool) -> Chunk:
    short = [place for place, row in enumerate(rows) if len(row) < width]
    for place in short:
        rows[place] = rows[place] + [""] * (width - len(rows[place]))
    broken = {}
    for place, row in enumerate(rows if file.quoted and not one_line_each else ()):
        inner = [line for value in row if "\n" in value or "\r" in value for line in value.splitlines()[1:]]
        if inner:
            fields = (line.split(file.separator) for line in inner)
            full = ([found[place] for place in places] for found in fields if len(found) == width)
            broken[place] = [dict(zip(file.columns, found, strict=True)) for found in full]
    texts = ([row[place] for row in rows] for place in places)
    return Chunk(file.path, 1, _frame(zip(file.columns, texts, strict=True)), short, broken)


def _frame(columns: Iterable[tuple[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame({role: pd.Series(values, dtype="str") for role, values in columns})


def _lines(file: TableFile) -> Iterator[Chunk]:
    """Chunks of a file of plain lines: quotation marks are text, unless they enclose the whole last field."""
    path, width = file.path, len(file.names)
    _first_row(path, file.separator, file.quoted)
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            there = (line.rstrip("\r\n") for line in lines if line.strip())
            while rows := [line.split(file.separator, width - 1) for line in islice(there, CHUNK_ROWS)]:
                short = [place for place, row in enumerate(rows) if len(row) < width]
                full = [[*row, *[""] * (width - len(row))] for row in rows]
                texts = zip(*([*row[:-1], _unquoted(row[-1])] for row in full), strict=True)
                by_name = dict(zip(file.names, texts, strict=True))
                yield Chunk(path, 1, _frame((role, list(by_name[name])) for role, name in file.columns.items()), short)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    return str((isinstance(error, OSError) and error.strerror) or error).strip().splitlines()[-1]


def _parquet(file: TableFile) -> Iterator[Chunk]:
    """Chunks of a parquet file. How a value becomes text is decided by the type of its column, never by other values.

    Conversion by pandas would decide per chunk: whole numbers beside a missing one become floating-point numbers.
    """
    opened = _open_parquet(file.path)
    _check(file, list(opened.schema_arrow.names))
    try:
        for batch in opened.iter_batches(batch_size=CHUNK_ROWS, columns=sorted(set(file.columns.values()))):
            columns = {role: batch.column(name) for role, name in file.columns.items()}
            times = columns.pop("timestamp", None)
            frame = _frame((role, arrow_text(column, file.path, role)) for role, column in columns.items())
            yield Chunk(file.path, 1, frame if times is None else frame.assign(timestamp=times.to_pandas()))
    except (OSError, ValueError) as error:  # pyarrow's errors are subclasses of these
        raise UserError(f"{file.path}: cannot be read: {_reason(error)}") from error


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: pip install 'iisan-bench[parquet]'") from None
    try:
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error


def _check(file: TableFile, names: Sequence[str]) -> None:
    for role, name in file.columns.items():
        if name not in names:
            raise UserError(
                f"{file.path}: no column {name!a} ({role}); there are {', '.join(map(ascii, names))}; "
                + (
                    f"separate them by {file.separator!a}"
                    if len(names) == 1 and any(mark in names[0] for mark in ";\t|,")
                    else f"choose one with --{role}-column"
                )
            )
