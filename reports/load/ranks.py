"""Ranks of the targets per user (ranks.csv), and the metrics HR@k, NDCG@k and MRR@k computed from them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.scoring.ranking import gains as gains
from bench.utils.errors import UserError

METRICS = {"hr": "HR", "ndcg": "NDCG", "mrr": "MRR"}
"""Name of each metric in a column, and its name in text."""

SPLITS = ("test", "valid")

_COLUMNS = {"user": "str", "valid_rank": "Int64", "test_rank": "Int64"}
_NO_TARGET = {"valid_rank": [""], "test_rank": [""]}


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of the targets of one cell, for the model of its chosen epoch; the best rank is 1."""

    users: tuple[str, ...]
    """Users with a test target: all users, unless the data is split by time."""
    valid: NDArray[np.int64]
    """Shape (validated users,): ranks of the users with a validation target."""
    test: NDArray[np.int64]
    """Shape (users,)."""


def load_ranks(path: Path) -> Ranks | None:
    """Read ranks.csv; None if the cell has no such file.

    Raises:
        UserError: the file is malformed or empty, names a user twice or holds a rank below 1; the message names it.
    """
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path, usecols=list(_COLUMNS), dtype=_COLUMNS, keep_default_na=False, na_values=_NO_TARGET)
        tested = frame["test_rank"].notna()
        valid, test = (frame[column].dropna().to_numpy(dtype=np.int64) for column in ("valid_rank", "test_rank"))
    except (ValueError, TypeError, OSError, OverflowError) as error:
        raise UserError(f"{path}: malformed: {str(error).splitlines()[0]}") from None
    if not len(valid) or not len(test):
        raise UserError(f"{path}: malformed: no user has a {'test' if len(valid) else 'validation'} target")
    if frame["user"].duplicated().any():
        raise UserError(f"{path}: malformed: a user is listed twice")
    if min(valid.min(), test.min()) < 1:
        raise UserError(f"{path}: malformed: a rank below 1")
    return Ranks(tuple(frame["user"][tested].tolist()), valid, test)


def column(metric: str, k: int, split: str = "test") -> str:
    """Column name of a metric: hr@10, or valid_hr@10 for the validation split."""
    return f"{'' if split == 'test' else f'{split}_'}{metric}@{k}"


def title(metric: str, k: int) -> str:
    """Name of a metric in text: HR@10."""
    return f"{METRICS[metric]}@{k}"


def parse_metric(text: str) -> tuple[str, int] | None:
    """Metric and k of a name such as hr@10; None if the text is not such a name."""
    found = re.fullmatch(rf"({'|'.join(METRICS)})@([1-9]\d{{0,8}})", text)
    return (found[1], int(found[2])) if found else None
