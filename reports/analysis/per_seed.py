"""What stands in the records of a method and in no table: a value per seed, and how several are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reports.analysis.comparison import Comparison
from reports.analysis.tables import mean_interval
from reports.load.run_folders import Record

Read = Callable[[Record], float | None]
"""Takes a figure out of a record; None where it is not in it."""


def ended_ok(comparison: Comparison, method: str) -> list[Record]:
    """The cells of a method that ended ok, by seed."""
    mine = [record for record in comparison.records if record.ok and record.row["method"] == method]
    return sorted(mine, key=lambda record: int(record.row.get("seed") or 0))


def figure(part: Mapping[str, Any], *keys: str) -> float | None:
    """A number in a part of a record, by the keys that lead to it; None where there is none."""
    value: Any = part
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if known else None


def column(name: str) -> Read:
    """Reads a column of the row."""
    return lambda record: figure(record.row, name)


def account(part: str) -> Read:
    """Reads a part of the account of memory, or its `peak_bytes`."""
    return lambda record: figure(record.memory, part)


def per_seed(comparison: Comparison, method: str, read: Read) -> list[float]:
    """A figure of each cell of a method that ended ok and has it."""
    return [value for record in ended_ok(comparison, method) if (value := read(record)) is not None]


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing. Whole numbers that are all the same stay what they are."""
    if not values:
        return None
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def spread(values: Sequence[float], words: Callable[[float], str]) -> str:
    """The mean in words, with half of the 95 % t interval over seeds where they differ; empty for nothing."""
    middle, low, high = mean_interval(np.asarray(values, dtype=np.float64))
    if middle is None:
        return ""
    # One figure that was written down twice, with other digits at its end, does not vary.
    if low is None or high is None or np.allclose(values, middle, rtol=1e-6, atol=0):
        return words(middle)
    return f"{words(middle)} ± {words((high - low) / 2)}"


def share(value: float) -> str:
    """A share in percent, with a decimal where it is small: 43%, 4.6%, 0.02%."""
    percent = 100 * value
    if percent == 0 or abs(percent) >= 9.95:
        return f"{percent:.0f}%"
    return f"{percent:.1f}%" if abs(percent) >= 0.095 else f"{percent:.1g}%"
