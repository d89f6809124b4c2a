"""From sequences to training rows, validation and test targets, and which users have which of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.ragged import Ragged

MAX_INPUTS = 10
"""Items that the user encoder sees."""
MIN_LENGTH = 5
"""Shorter users are left out."""
MAX_LENGTH = MAX_INPUTS + 3
"""10 inputs, and one target each for training, validation and test."""
TRAIN_LENGTH = MAX_INPUTS + 1
"""A training row: ten inputs and the last one's target."""
HISTORY_LENGTH = MAX_LENGTH - 1
"""Items before a target that are left out of its ranking."""
MIN_TRAIN_LENGTH = 2
"""A single interaction has nothing to predict."""
PAD = -1
"""Stands where there is no item."""
NONE = -1
"""Stands for a target that a user does not have."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Training, validation and test, all of item indices or `PAD`; the newest item stands at the end of a row.

    Each part has a row per user of its own. When the last item tests and the one before it validates, every user is in
    every part; when time decides, a user may be in any of them.
    """

    train_users: NDArray[np.int64]
    """(trained,): the users of the rows of `train`, as indices of the catalogue's users, ascending."""
    train: NDArray[np.int32]
    """(trained, 11): the newest items that may be trained on, padded on the left; the last column is only a target."""
    valid_users: NDArray[np.int64]
    """(validated,): the users with a validation target."""
    valid_inputs: NDArray[np.int32]
    """(validated, 10): the newest items before the validation target, padded on the left."""
    valid_target: NDArray[np.int32]
    """(validated,)."""
    test_users: NDArray[np.int64]
    """(tested,): the users with a test target."""
    test_inputs: NDArray[np.int32]
    """(tested, 10): the newest items before the test target (a validation target among them)."""
    test_target: NDArray[np.int32]
    """(tested,)."""
    valid_history: NDArray[np.int32]
    """(validated, 12): the items to leave out of the ranking, the newest before the validation target. The target is
    never left out: people buy things twice, and where an earlier item is the target itself its place holds `PAD`. So
    `PAD` may stand anywhere in a row."""
    test_history: NDArray[np.int32]
    """(tested, 12): the same for the test target."""
    popularity: NDArray[np.int64]
    """(items,): how often an item stands in `train`, targets included; 0 for items that training never sees."""


def split(sequences: Sequence[NDArray[np.int32]], n_items: int, cuts: NDArray[np.int32] | None = None) -> Splits:
    """Split sequences of item indices in [0, n_items), oldest first.

    Args:
        sequences: one per user.
        cuts: (users, 3), per user how many of the first items may be trained on, and the places of the validation and
            of the test target, `NONE` where there is none. Without it the last item tests and the one before it
            validates, and sequences have `MIN_LENGTH` to `MAX_LENGTH` items.

    Raises:
        ValueError: for sequences or cuts that a catalogue may not hold.
    """
    rows = Ragged.of(sequences)
    if len(rows) == 0:
        raise ValueError("no sequences to split")
    if len(rows.flat) and (rows.flat.min() < 0 or rows.flat.max() >= n_items):
        raise ValueError(f"sequences hold item indices {rows.flat.min()} to {rows.flat.max()}, not 0 to {n_items - 1}")
    trained, valid, test = (_last_two(rows) if cuts is None else _checked(rows, cuts)).T
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
        popularity=np.bincount(train[train != PAD], minlength=n_items).astype(np.int64),
    )


def _last_two(rows: Ragged) -> NDArray[np.int64]:
    lengths = rows.lengths
    if lengths.min() < MIN_LENGTH or lengths.max() > MAX_LENGTH:
        raise ValueError(
            f"sequences have {lengths.min()} to {lengths.max()} items, not {MIN_LENGTH} to {MAX_LENGTH}: "
            "the source must leave out the short ones and cut the long ones"
        )
    return np.stack([lengths - 2, lengths - 2, lengths - 1], axis=1)


def _checked(rows: Ragged, cuts: NDArray[np.int32]) -> NDArray[np.int64]:
    """Places within their rows; a target comes after what is trained on, and the test target after the other."""
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
    """Users with a target at their place, its inputs, the targets, and the histories without them."""
    users = np.flatnonzero(places != NONE)
    ends = places[users]
    target = rows.flat[rows.offsets[users] + ends]
    before = rows.windows(users, ends, HISTORY_LENGTH, PAD)
    inputs = before[:, HISTORY_LENGTH - MAX_INPUTS :].copy()
    return users, inputs, target, np.where(before == target[:, None], PAD, before).astype(np.int32, copy=False)
