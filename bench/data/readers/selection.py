"""Selection of the users and interactions that a dataset keeps, and the places of a split in time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.ragged import Ragged, offsets_of
from bench.data.readers.interactions import Log
from bench.data.readers.tables.timestamps import Times
from bench.data.splits import HISTORY_LENGTH, MAX_LENGTH, MIN_LENGTH, MIN_TRAIN_LENGTH, NONE, TRAIN_LENGTH
from bench.utils.errors import UserError


class NobodyLeft(UserError):
    """No user has enough interactions."""


@dataclass(frozen=True)
class Temporal:
    """Moments of a split in time: training before `valid_from`, test from `test_from` on, validation between them."""

    valid_from: int | float
    test_from: int | float


@dataclass(frozen=True, eq=False)
class Selection:
    """Users and interactions that are left."""

    users: NDArray[np.int64]
    """Users, as places in the log, ascending."""
    sequences: Ragged
    """Items of each user, as places in the log."""
    cuts: NDArray[np.int32] | None
    """Places of a split in time, as `bench.data.splits.split` takes them, (users, 3); None for leave-one-out."""
    used: NDArray[np.int64]
    """Items in the sequences, as places in the log, ascending."""
    dropped: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Spans:
    """For every user of the log: kept or not, range of kept interactions, and places of the split; all (users,)."""

    kept: NDArray[np.bool_]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    cuts: NDArray[np.int64] | None
    """(users, 3)."""
    dropped: Mapping[str, int]


def select(log: Log, rule: Temporal | None, usable: NDArray[np.bool_] | None = None) -> Selection:
    """Leave out unusable items, then users with fewer than `MIN_LENGTH` interactions, then unused interactions.

    Unused interactions are, without a rule, those before a user's last `MAX_LENGTH`; with a rule, those older than the
    training row, the inputs and the history need, and those after the user's last target.

    Args:
        log: all interactions.
        rule: split in time; None for leave-one-out.
        usable: mask of the items that may be used, (items,); None for all.

    Raises:
        NobodyLeft: no user has `MIN_LENGTH` interactions.
        UserError: no user to train, to validate or to test on.
    """
    rows, times = _usable(log, usable)
    lengths = rows.lengths
    long = lengths >= MIN_LENGTH
    if not long.any():
        raise NobodyLeft(f"no user has {MIN_LENGTH} interactions with items that can be used")
    spans = _leave_one_out(lengths, long) if rule is None else _temporal(rows, times, long, rule)
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


def _leave_one_out(lengths: NDArray[np.int64], long: NDArray[np.bool_]) -> _Spans:
    start = np.maximum(lengths - MAX_LENGTH, 0)
    older = {f"interactions before a user's last {MAX_LENGTH}": int(start[long].sum())}
    return _Spans(long, start, lengths, None, older)


def _temporal(rows: Ragged, times: Times | None, long: NDArray[np.bool_], rule: Temporal) -> _Spans:
    """Spans of a split in time: the target is the first interaction from a moment on and needs an earlier input."""
    assert times is not None
    lengths = rows.lengths
    train_end, valid_end = (_count_before(rows, times, moment) for moment in (rule.valid_from, rule.test_from))
    trains = train_end >= MIN_TRAIN_LENGTH
    validates = (train_end >= 1) & (train_end < valid_end)
    tests = (valid_end >= 1) & (valid_end < lengths)
    for part, lacking, found in (
        ("train", "no user has two interactions before --valid-from", trains),
        ("validate", "no user has an interaction between --valid-from and --test-from and an earlier one", validates),
        ("test", "no user has an interaction from --test-from on and an earlier one", tests),
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
        "interactions of users with nothing to train on or to be tested on": int(lengths[long & ~kept].sum()),
        "interactions older than a user's inputs and history": int(start[kept].sum()),
        "interactions after a user's last target": int((lengths - end)[kept].sum()),
    }
    return _Spans(kept, start, end, np.stack(cuts, axis=1), dropped)


def _count_before(rows: Ragged, times: Times, moment: float) -> NDArray[np.int64]:
    """Number of interactions of each user before a moment, (users,)."""
    counts = np.concatenate([[0], np.cumsum(times < moment)])
    return np.asarray(counts[rows.offsets[1:]] - counts[rows.offsets[:-1]], dtype=np.int64)
