"""Timestamps as numbers: numbers are unchanged, dates become microseconds since 1970 in UTC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.readers.tables.columns import Chunk
from bench.utils.errors import UserError

if TYPE_CHECKING:
    Series = pd.Series[Any]

TimeKind = Literal["number", "date"]
Times = NDArray[np.int64 | np.float64]

_ZONE = r"[T ].*(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)$"
_COARSE_FROM = 1 << 24
"""Largest magnitude up to which every whole number is a 32-bit floating-point number."""
_LATE = int(np.datetime64("2200-01-01", "us").astype(np.int64))
_UNITS = ("no known unit", "seconds", "milliseconds", "microseconds", "nanoseconds")
_UNIT_STARTS = (1e8, 5e10, 5e13, 5e16)
"""Least numbers that look like seconds, milliseconds, ... since 1970, for times from 1973 to about 3500."""


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


class TimeForms:
    """Counts of the ways in which timestamps are written that can spoil their order."""

    def __init__(self) -> None:
        self._rows = self._zoned = self._scientific = self._coarse = 0

    def add(self, values: Series, kind: TimeKind) -> None:
        """Counts the forms of the timestamps of a chunk, if they are text."""
        if values.dtype in (np.float16, np.float32):
            self._coarse += len(values)
        if not pd.api.types.is_string_dtype(values):
            return
        self._rows += len(values)
        if kind == "date":
            self._zoned += int(values.str.contains(_ZONE).sum())
        else:
            self._scientific += int(values.str.contains("e", case=False, regex=False).sum())

    def warnings(self, times: Times, kind: TimeKind) -> list[str]:
        """Sentences about timestamps of several units or zones, absent ones that are zero, and too few digits."""
        found = []
        if 0 < self._zoned < self._rows:
            found.append(
                f"{self._zoned} of {self._rows} timestamps have a time zone and the others have none; those count as "
                "UTC, so that the order may be wrong."
            )
        if self._scientific:
            found.append(
                f"{self._scientific} timestamps are in scientific notation: times that differ in the digits left out "
                "are equal, and the order of the rows decides."
            )
        if self._coarse and np.abs(times).max() > _COARSE_FROM:
            found.append(
                "the timestamps are 32-bit floating-point numbers: times some seconds or minutes apart are equal, and "
                "the order of the rows decides."
            )
        if kind == "number":
            counts = np.bincount(np.searchsorted(_UNIT_STARTS, times, side="right"), minlength=len(_UNITS))
            said = [f"{count} in {unit}" for unit, count in zip(_UNITS[1:], counts[1:].tolist(), strict=True) if count]
            if len(said) > 1:
                found.append(f"the timestamps look like different units ({', '.join(said)}): their order is wrong.")
        elif late := int((times >= _LATE).sum()):
            found.append(f"{late} timestamps are after the year 2200, as if unknown; they count as the newest.")
        zeros = int((times == 0).sum())
        if zeros and np.median(times) >= (_UNIT_STARTS[0] if kind == "number" else 1):
            found.append(f"{zeros} timestamps are 0, as if the time were not known; they count as the oldest.")
        return found


def parse_moment(text: str, kind: TimeKind, option: str) -> int | float:
    """Moment given by an option, on the scale of the timestamps.

    Raises:
        UserError: the text is not of the kind of the timestamps; the message names the option.
    """
    try:
        if kind == "date":
            return int(pd.to_datetime(text, utc=True, format="ISO8601").as_unit("us").asm8.astype(np.int64))
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
        return str(np.datetime64(int(value), "us")).removesuffix(".000000")
    return str(int(value)) if float(value).is_integer() else repr(float(value))
