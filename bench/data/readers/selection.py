"""Which users, and which of their interactions, a dataset keeps, and where time splits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.ragged import Ragged, offsets_of
from bench.data.readers.interactions import Log
from bench.data.readers.timestamps import Times
from bench.data.splits import HISTORY_LENGTH, MAX_LENGTH, MIN_LENGTH, MIN_TRAIN_LENGTH, NONE, TRAIN_LENGTH
from bench.utils.errors import UserError


class NobodyLeft(UserError):
    """No user has enough interactions."""


@dataclass(frozen=True)
class Temporal:
    """Training before the first moment, validation between the two, test from the second on."""

    valid_from: int | float
    test_from: int | float


@dataclass(frozen=True, eq=False)
class Selection:
    """The users and interactions that are left."""

    users: NDArray[np.int64]
    """As places in the log."""
    sequences: Ragged
    """Per user, of items as places in the log."""
    cuts: NDArray[np.int32] | None
    """As `bench.data.splits.split` takes them."""
    used: NDArray[np.int64]
    """The items in these sequences, ascending."""
    dropped: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Spans:
    """Of every user of the log what is kept, and the places of the split; all (users,), in places of the user."""

    kept: NDArray[np.bool_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    cuts: NDArray[np.int64] | None
    """(users, 3)."""
    dropped: Mapping[str, int]


def select(log: Log, rule: Temporal | None, usable: NDArray[np.bool_] | None = None) -> Selection:
    """Leave out unusable items, then users with fewer than `MIN_LENGTH`, then what no part of the split looks at.

    Without a rule that is everything before a user's last `MAX_LENGTH` interactions. With one, what is older than the
    training row, the inputs and the history of the targets need, and what comes after the user's last target.

    Raises:
        UserError: nobody is left, or nobody to train, to validate or to test on.
    """
    rows, times = _usable(log, usable)
    lengths = rows.lengths
    long = lengths >= MIN_LENGTH
    if not long.any():
        raise NobodyLeft(f"no user has {MIN_LENGTH} interactions with items that can be used")
    spans = _last(lengths, long) if rule is None else _in_time(rows, times, long, rule)
    users = np.flatnonzero(spans.kept)
    sequences = rows.slices(users, spans.start[users], spans.end[users])
    used = np.unique(sequences.flat).astype(np.int64)
    available = len(log.items.ids) if usable is None else int(usable.sum())
    dropped = {
        f"users with fewer than {MIN_LENGTH} interactions": int((~long).sum()),
        "interactions of these users": int(lengths[~long].sum()),
        **spans.dropped,
        "items in no sequence that is left": available - len(used),
    }
    cuts = None if spans.cuts is None else spans.cuts[users].astype(np.int32)
    return Selection(users, sequences, cuts, used, dropped)


def _usable(log: Log, usable: NDArray[np.bool_] | None) -> tuple[Ragged, Times | None]:
    if usable is None:
        return log.sequences, log.times
    kept = usable[log.sequences.flat]
    users = np.repeat(np.arange(len(log.sequences)), log.sequences.lengths)
    offsets = offsets_of(np.bincount(users[kept], minlength=len(log.sequences)))
    return Ragged(log.sequences.flat[kept], offsets), None if log.times is None else log.times[kept]


def _last(lengths: NDArray[np.int64], long: NDArray[np.bool_]) -> _Spans:
    start = np.maximum(lengths - MAX_LENGTH, 0)
    older = {f"interactions before a user's last {MAX_LENGTH}": int(start[long].sum())}
    return _Spans(long, start, lengths, None, older)


def _in_time(rows: Ragged, times: Times | None, long: NDArray[np.bool_], rule: Temporal) -> _Spans:
    """The first interaction from a moment on is the target; it needs an earlier one as input."""
    assert times is not None
    lengths = rows.lengths
    train_end, valid_end = (_before(rows, times, moment) for moment in (rule.valid_from, rule.test_from))
    trains = train_end >= MIN_TRAIN_LENGTH
    validates = (train_end >= 1) & (train_end < valid_end)
    tests = (valid_end >= 1) & (valid_end < lengths)
    for part, lacking, found in (
        ("train", "no user has two interactions before --valid-from", trains),
        ("validate", "no user has one between --valid-from and --test-from and an earlier one", validates),
        ("test", "no user has one from --test-from on and an earlier one", tests),
    ):
        if not (found & long).any():
            raise UserError(f"--split temporal: nothing to {part} on: {lacking}")
    kept = long & (trains | validates | tests)
    start = lengths.copy()
    end = np.zeros_like(lengths)
    for has, place, reach, after in (
        (trains, train_end, TRAIN_LENGTH, 0),
        (validates, train_end, HISTORY_LENGTH, 1),
        (tests, valid_end, HISTORY_LENGTH, 1),
    ):
        start = np.where(has, np.minimum(start, np.maximum(place - reach, 0)), start)
        end = np.where(has, np.maximum(end, place + after), end)
    cuts = [np.where(trains, train_end - start, 0)]
    cuts += [np.where(has, place - start, NONE) for has, place in ((validates, train_end), (tests, valid_end))]
    dropped = {
        "users with nothing to train on or to be tested on": int((long & ~kept).sum()),
        "interactions of those": int(lengths[long & ~kept].sum()),
        "interactions older than a user's inputs and history": int(start[kept].sum()),
        "interactions after a user's last target": int((lengths - end)[kept].sum()),
    }
    return _Spans(kept, start, end, np.stack(cuts, axis=1), dropped)


def _before(rows: Ragged, times: Times, moment: float) -> NDArray[np.int64]:
    """How many interactions of each user are older than the moment, (users,)."""
    counts = np.concatenate([[0], np.cumsum(times < moment)])
    return np.asarray(counts[rows.offsets[1:]] - counts[rows.offsets[:-1]], dtype=np.int64)
