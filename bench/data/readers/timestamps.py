"""Timestamps as numbers: numbers are unchanged, dates become microseconds since 1970 in UTC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.readers.columns import Chunk
from bench.utils.errors import UserError

if TYPE_CHECKING:
    Series = pd.Series[Any]

TimeKind = Literal["number", "date"]
Times = NDArray[np.int64 | np.float64]
_MICROSECOND = pd.Timedelta(microseconds=1)
_EPOCH = pd.Timestamp(0, tz="UTC")


def kind_of(values: Series) -> TimeKind:
    """Kind of the timestamps, by the first value: a number, else a date."""
    if pd.api.types.is_datetime64_any_dtype(values):
        return "date"
    if pd.api.types.is_numeric_dtype(values) or len(values) == 0:
        return "number"
    try:
        float(values.iloc[0])
    except (TypeError, ValueError):
        return "date"
    return "number"


def parse_times(chunk: Chunk, kind: TimeKind) -> Times:
    """Timestamps of a chunk, (rows,): whole numbers as int64, others as float64.

    Raises:
        UserError: a value is not of this kind; the message names file and row.
    """
    values = chunk.frame["timestamp"]
    if kind == "number":
        numbers = pd.to_numeric(values, errors="coerce").to_numpy()
        bad = ~np.isfinite(numbers.astype(np.float64))
    else:
        dates = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
        numbers, bad = dates.to_numpy(dtype="datetime64[us]").astype(np.int64), dates.isna().to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        what = "a number" if kind == "number" else "a date such as 2024-05-01 or 2024-05-01T13:30:00"
        raise UserError(f"{chunk.place(row)}: timestamp {ascii(str(values.iloc[row]))[:70]} is not {what}")
    whole = np.issubdtype(numbers.dtype, np.integer)
    return numbers.astype(np.int64) if whole else numbers.astype(np.float64)


def parse_moment(text: str, kind: TimeKind, option: str) -> int | float:
    """Moment given by an option, on the scale of the timestamps.

    Raises:
        UserError: the text is not of the kind of the timestamps; the message names the option.
    """
    try:
        if kind == "date":
            return int((pd.to_datetime(text, utc=True, format="ISO8601") - _EPOCH) // _MICROSECOND)
        value = float(text)
        if np.isfinite(value):
            return int(text) if text.strip().lstrip("+-").isdecimal() else value
    except ValueError:
        pass
    expected = "numbers: a number is expected" if kind == "number" else "dates: a date such as 2024-05-01 is expected"
    raise UserError(f"{option} {text}: the timestamps are {expected}")


def show_moment(value: float, kind: TimeKind) -> str:
    """Text of a moment as an option would take it: a number or an ISO date."""
    if kind == "date":
        return (_EPOCH + int(value) * _MICROSECOND).tz_localize(None).isoformat()
    return str(int(value)) if float(value).is_integer() else repr(float(value))
