"""Figures of the records of a method, a value per seed, and their format in the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reports.analysis.comparison import Comparison
from reports.analysis.tables import mean_interval
from reports.load.run_folders import Record

Read = Callable[[Record], float | None]
"""Function that reads a figure from a record; it returns None if the record does not have the figure."""


def ended_ok(comparison: Comparison, method: str) -> list[Record]:
    """Records of a method that ended ok, ordered by seed."""
    mine = [record for record in comparison.records if record.ok and record.row["method"] == method]
    return sorted(mine, key=lambda record: int(record.row.get("seed") or 0))


def figure(part: Mapping[str, Any], *keys: str) -> float | None:
    """Number in a part of a record, under a path of keys; None if there is no finite number."""
    value: Any = part
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def column(name: str) -> Read:
    """Reader of a column of the row."""
    return lambda record: figure(record.row, name)


def account(part: str) -> Read:
    """Reader of a part of the account of memory, or of its `peak_bytes`."""
    return lambda record: figure(record.memory, part)


def per_seed(comparison: Comparison, method: str, read: Read) -> list[float]:
    """Values of a figure, one per cell of a method that ended ok and has the figure."""
    return [value for record in ended_ok(comparison, method) if (value := read(record)) is not None]


def mean(values: Sequence[float]) -> float | None:
    """Mean of the values; None without values. Equal values are returned unchanged, so that integers stay exact."""
    if not values:
        return None
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def spread(values: Sequence[float], words: Callable[[float], str]) -> str:
    """Mean as text, with half of the 95 % t interval over seeds if the values differ; empty without values."""
    middle, low, high = mean_interval(np.asarray(values, dtype=np.float64))
    if middle is None:
        return ""
    # Values that differ in their last digits alone come from rounding and do not vary.
    if low is None or high is None or np.allclose(values, middle, rtol=1e-6, atol=0):
        return words(middle)
    return f"{words(middle)} ± {words((high - low) / 2)}"


def share(value: float) -> str:
    """A share in percent, with decimals if it is small: 43%, 4.6%, 0.02%."""
    percent = 100 * value
    if percent == 0 or abs(percent) >= 9.95:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if abs(percent) >= 0.095 else f"{percent:.1g}%"
