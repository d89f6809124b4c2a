"""Split of sequences into training rows, validation targets and test targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.ragged import Ragged

MAX_INPUTS = 10
"""Number of items that the user encoder sees."""
MIN_LENGTH = 5
"""Fewest interactions of a user; users with fewer are left out."""
MAX_LENGTH = MAX_INPUTS + 3
"""Longest sequence: 10 inputs, and one target each for training, validation and test."""
TRAIN_LENGTH = MAX_INPUTS + 1
"""Length of a training row: ten inputs and the target of the last input."""
HISTORY_LENGTH = MAX_LENGTH - 1
"""Number of items before a target that are left out of its ranking."""
MIN_TRAIN_LENGTH = 2
"""Fewest training interactions of a user who trains: a single interaction has no target."""
PAD = -1
"""Item index at places without an item."""
NONE = -1
"""Place of the target of a user without a target."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test parts: rows of item indices or `PAD`, newest item last.

    Each part has one row per user of the part. In a leave-one-out split every user is in every part; in a temporal
    split a user may be in any of them.
    """

    train_users: NDArray[np.int64]
    """Users of the rows of `train`, as indices of the catalogue's users, ascending, (trained,)."""
    train: NDArray[np.int32]
    """Newest training items, (trained, 11), padded on the left; the last column is only a target."""
    valid_users: NDArray[np.int64]
    """Users with a validation target, (validated,)."""
    valid_inputs: NDArray[np.int32]
    """Newest items before the validation target, (validated, 10), padded on the left."""
    valid_target: NDArray[np.int32]
    """Validation targets, (validated,)."""
    test_users: NDArray[np.int64]
    """Users with a test target, (tested,)."""
    test_inputs: NDArray[np.int32]
    """Newest items before the test target, the validation target included, (tested, 10), padded on the left."""
    test_target: NDArray[np.int32]
    """Test targets, (tested,)."""
    valid_history: NDArray[np.int32]
    """Items to leave out of the ranking of the validation target, (validated, 12): the newest items before it. The
    target itself is never left out, as people buy things twice: an earlier purchase of the target is replaced by
    `PAD`, so `PAD` may be anywhere in a row."""
    test_history: NDArray[np.int32]
    """Items to leave out of the ranking of the test target, (tested, 12), as in `valid_history`."""
    popularity: NDArray[np.int64]
    """Number of occurrences in `train`, targets included, (items,); 0 for items that training never sees."""

    @property
    def test_seen(self) -> NDArray[np.bool_]:
        """True for test targets that occur in `train`, as inputs or targets of any user, (tested,)."""
        return self.popularity[self.test_target] > 0


def split(sequences: Sequence[NDArray[np.int32]], n_items: int, cuts: NDArray[np.int32] | None = None) -> Splits:
    """Split sequences of item indices in [0, n_items), oldest first.

    Args:
        sequences: one per user.
        n_items: size of the catalogue.
        cuts: for each user the number of first items that may be trained on, the place of the validation target and
            the place of the test target, or `NONE`, (users, 3). Without cuts the split is leave-one-out: the last item
            is the test target and the item before it the validation target, and sequences must have `MIN_LENGTH` to
            `MAX_LENGTH` items.

    Raises:
        ValueError: the sequences or cuts are not valid for a catalogue.
    """
    rows = Ragged.of(sequences)
    if len(rows) == 0:
        raise ValueError("no sequences to split")
    if len(rows.flat) and (rows.flat.min() < 0 or rows.flat.max() >= n_items):
        raise ValueError(f"sequences hold item indices {rows.flat.min()} to {rows.flat.max()}, not 0 to {n_items - 1}")
    trained, valid, test = (_leave_one_out(rows) if cuts is None else _checked_cuts(rows, cuts)).T
    train_users = np.flatnonzero(trained >= MIN_TRAIN_LENGTH)
    train = rows.windows(train_users, trained[train_users], TRAIN_LENGTH, PAD)
    valid_users, valid_inputs, valid_target, valid_history = _part(rows, valid)
    test_users, test_inputs, test_target, test_history = _part(rows, test)
    return Splits(
        train_users=train_users,
        train=train,
        valid_users=valid_users,
        valid_inputs=valid_inputs,
        valid_target=valid_target,
        test_users=test_users,
        test_inputs=test_inputs,
        test_target=test_target,
        valid_history=valid_history,
        test_history=test_history,
        popularity=np.bincount(train[train != PAD], minlength=n_items),
    )


def _leave_one_out(rows: Ragged) -> NDArray[np.int64]:
    lengths = rows.lengths
    if lengths.min() < MIN_LENGTH or lengths.max() > MAX_LENGTH:
        raise ValueError(
            f"sequences have {lengths.min()} to {lengths.max()} items, not {MIN_LENGTH} to {MAX_LENGTH}: "
            "a reader must leave out short sequences and cut long ones"
        )
    return np.stack([lengths - 2, lengths - 2, lengths - 1], axis=1)


def _checked_cuts(rows: Ragged, cuts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Cuts, after checking that they lie within the rows in the order training, validation, test; (users, 3)."""
    if cuts.shape != (len(rows), 3):
        raise ValueError(f"cuts are {cuts.shape}, expected ({len(rows)}, 3)")
    trained, valid, test = wide = cuts.astype(np.int64).T
    lengths = rows.lengths
    sound = (trained >= 0) & (trained <= lengths)
    for target, earlier in ((valid, trained), (test, np.maximum(trained, valid + 1))):
        sound &= (target == NONE) | ((target >= 1) & (target >= earlier) & (target < lengths))
    if not sound.all():
        user = int(np.flatnonzero(~sound)[0])
        raise ValueError(f"user {user} of {lengths[user]} items cannot be cut at {cuts[user].tolist()}")
    return wide.T


def _part(
    rows: Ragged, places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Users with a target, and for each of them inputs, target, and history without the target."""
    users = np.flatnonzero(places != NONE)
    ends = places[users]
    target = rows.flat[rows.offsets[users] + ends]
    before = rows.windows(users, ends, HISTORY_LENGTH, PAD)
    inputs = before[:, HISTORY_LENGTH - MAX_INPUTS :].copy()
    return users, inputs, target, np.where(before == target[:, None], np.int32(PAD), before)
