"""Columns that change what a row of interactions means: ratings, labels, kinds of events, quantities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.readers.tables.columns import Chunk, TableFile

RATING = "rating"
_RATINGS = (RATING, "ratings", "stars", "star_rating", "review_rating", "overall", "score", "rate")
_LABELS = (
    "label", "labels", "click", "clicked", "is_click", "like", "liked", "is_like", "event", "event_type", "action",
    "action_type", "behavior", "behaviour", "behavior_type", "behaviour_type", "interaction_type", "feedback_type",
    "is_deleted", "returned", "cancelled",
)  # fmt: skip
_AMOUNTS = (
    "quantity", "qty", "count", "amount", "weight", "play_count", "plays", "listen_count", "watch_ratio", "watch_time",
    "play_time", "dwell_time",
)  # fmt: skip
_PARTS = ("x_label", "split", "fold")
_NOTED = frozenset((*_RATINGS, *_LABELS, *_AMOUNTS, *_PARTS))
_MOST_VALUES = 1000
_MOST_SHOWN = 10
_SHOWN = 3


def noted_columns(names: Sequence[str], used: Sequence[str]) -> list[str]:
    """Names of the columns of a file that may change what a row means and that have no role."""
    return [name for name in names if name.casefold() in _NOTED and name not in used]


def rated(chunk: Chunk, least: float) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Rows with a rating of at least `least`, (rows,), and the numbers of rows that are left out by reason."""
    text = chunk.text(RATING).str.strip()
    values = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    empty, kept = (text == "").to_numpy(), values >= least
    unread = np.isnan(values)
    reasons = {
        f"interactions with a rating below {least:g}": ~kept & ~unread,
        "interactions without a rating": empty,
        UNREAD: unread & ~empty,
    }
    return kept, {reason: int(rows.sum()) for reason, rows in reasons.items()}


UNREAD = "interactions whose rating is not a number"


class Meanings:
    """Counts of the values of columns that change what a row means and that are not used."""

    def __init__(self, file: TableFile, roles: Sequence[str]):
        self._file = file
        self._counts: Mapping[str, Counter[str]] = {role: Counter() for role in roles}
        self._rows = 0

    def add(self, chunk: Chunk) -> None:
        """Counts the values of a chunk."""
        self._rows += len(chunk.frame)
        for role, counts in self._counts.items():
            if len(counts) <= _MOST_VALUES:
                counts.update({str(value): n for value, n in chunk.text(role).value_counts().items()})

    def notes(self) -> list[str]:
        """One note for the report per column whose rows do not all have the same value."""
        return [self._note(role, counts) for role, counts in self._counts.items() if len(counts) > 1]

    def _note(self, role: str, counts: Counter[str]) -> str:
        name = self._file.columns[role]
        said = f"{self._file.path.name}: the column {name!a} ({self._summary(counts)}) is not used"
        if name.partition(":")[0].casefold() in _PARTS:
            return f"{said}: the interactions are split as --split says."
        option = "--min-rating X" + ("" if role == RATING else f" --rating-column {role}")
        numbers = any(_is_number(value) for value in counts)
        return f"{said}: every row counts as one interaction" + (f"; {option} sets a least value." if numbers else ".")

    def _summary(self, counts: Counter[str]) -> str:
        if len(counts) > _MOST_VALUES:
            return f"more than {_MOST_VALUES} values"
        if len(counts) > _MOST_SHOWN:
            return f"{len(counts)} values"
        common = [f"{value!a} {count / self._rows:.0%}" for value, count in counts.most_common(_SHOWN)]
        return ", ".join(common) + (", ..." if len(counts) > _SHOWN else "")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
