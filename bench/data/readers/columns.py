"""Reading of named columns of a CSV, TSV or parquet file in chunks of rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench.utils.errors import UserError

if TYPE_CHECKING:
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
    """Some rows of a table. Values from text files are strings, empty where a value is missing."""

    path: Path
    first: int
    """Number of the first row, counted from 1 after the header."""
    frame: pd.DataFrame
    """One column per entry of `TableFile.columns`, named by its role."""

    def place(self, row: int) -> str:
        """Place of a row of this chunk, for messages."""
        return f"{self.path}: row {self.first + row}"

    def text(self, column: str) -> Series:
        """Column as strings, empty where a value is missing; whole numbers have no decimal point."""
        values = self.frame[column]
        if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
            values = values.astype("Int64")
        return values.astype("string").fillna("").astype("str")


def read_chunks(file: TableFile) -> Iterator[Chunk]:
    """Yields all rows of the file, `CHUNK_ROWS` at a time.

    Raises:
        UserError: the file is absent, not UTF-8 or malformed, lacks a column, or is parquet and pyarrow is absent; the
            message names the file.
    """
    first = 1
    for frame in _frames(file):
        found = frame[list(file.columns.values())].set_axis(list(file.columns), axis=1)
        yield Chunk(file.path, first, found)
        first += len(frame)


def _frames(file: TableFile) -> Iterator[pd.DataFrame]:
    if is_parquet(file.path):
        return _parquet(file)
    return _lines(file) if file.names and not file.quoted else _text(file)


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


def _text(file: TableFile) -> Iterator[pd.DataFrame]:
    path = file.path
    if file.names:
        _first_row(path, file.separator, file.quoted)  # raises UserError for a file that is empty or not text
    else:
        _check(file, header(path, file.separator, file.quoted))
    try:
        # All columns are read: with a selection, pandas accepts rows of too many fields.
        reader = pd.read_csv(
            path,
            sep=file.separator,
            header=None if file.names else 0,
            names=file.names or None,
            quoting=csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE,
            dtype=str,
            na_filter=False,
            encoding="utf-8",
            chunksize=CHUNK_ROWS,
        )
        with reader:
            for frame in reader:
                if not isinstance(frame.index, pd.RangeIndex):  # pandas makes an index of fields without a name
                    raise UserError(f"{path}: its rows have more fields than it has columns")
                yield frame
    except (OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _lines(file: TableFile) -> Iterator[pd.DataFrame]:
    """Frames of a file of plain lines: quotation marks are text, unless they enclose the whole last field."""
    path, width = file.path, len(file.names)
    _first_row(path, file.separator, file.quoted)
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as lines:
            there = (line.rstrip("\r\n") for line in lines if line.strip())
            while rows := [line.split(file.separator, width - 1) for line in islice(there, CHUNK_ROWS)]:
                full = [[*row, *[""] * (width - len(row))] for row in rows]
                yield pd.DataFrame([[*row[:-1], _unquoted(row[-1])] for row in full], columns=list(file.names))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {_reason(error)}") from error


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8 text"
    if isinstance(error, OSError):
        return str(error.strerror)
    return str(error).strip().splitlines()[-1].removeprefix("Error tokenizing data. C error: ")


def _parquet(file: TableFile) -> Iterator[pd.DataFrame]:
    opened = _open_parquet(file.path)
    _check(file, list(opened.schema_arrow.names))
    try:
        for batch in opened.iter_batches(batch_size=CHUNK_ROWS, columns=list(file.columns.values())):
            yield batch.to_pandas()
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


def _check(file: TableFile, names: list[str]) -> None:
    for role, name in file.columns.items():
        if name not in names:
            raise UserError(
                f"{file.path}: no column {name!a} ({role}); there are {', '.join(map(ascii, names))}; "
                f"choose one with --{role}-column"
            )
