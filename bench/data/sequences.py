"""From sequences to training rows, validation and test: the last item tests, the one before it validates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_INPUTS = 10
"""Items that the user encoder sees."""
MIN_LENGTH = 5
"""Shorter users are left out."""
MAX_LENGTH = MAX_INPUTS + 3
"""10 inputs, and one target each for training, validation and test."""
PAD = -1
"""Stands where there is no item."""


@dataclass(frozen=True, eq=False)
class Splits:
    """All users' splits, one row per user, all of item indices or `PAD`; the newest item stands at the end of a row."""

    train: NDArray[np.int32]
    """(users, 11): everything but the last two items, padded on the left; the last column is only ever a target."""
    valid_inputs: NDArray[np.int32]
    """(users, 10): the newest items before the validation target, padded on the left."""
    valid_target: NDArray[np.int32]
    """(users,): the last item but one."""
    test_inputs: NDArray[np.int32]
    """(users, 10): the newest items before the test target (the validation target is the newest of them)."""
    test_target: NDArray[np.int32]
    """(users,): the last item."""
    valid_history: NDArray[np.int32]
    """(users, 12): the items to leave out of the ranking, all those before the validation target. The target is never
    left out: people buy things twice, and where an earlier item is the target itself its place holds `PAD`. So `PAD`
    may stand anywhere in a row."""
    test_history: NDArray[np.int32]
    """(users, 12): the same for the test target."""
    popularity: NDArray[np.int64]
    """(items,): how often an item stands in `train`, targets included; 0 for items that training never sees."""


def split(sequences: Sequence[NDArray[np.int32]], n_items: int) -> Splits:
    """Split each sequence (oldest first, `MIN_LENGTH` to `MAX_LENGTH` items in [0, n_items)) in time.

    Raises ValueError for sequences that a catalogue may not hold.
    """
    padded = _left_padded(sequences, n_items)
    train = padded[:, : MAX_LENGTH - 2]
    valid_target, test_target = padded[:, -2], padded[:, -1]
    return Splits(
        train=train.copy(),
        valid_inputs=padded[:, -2 - MAX_INPUTS : -2].copy(),
        valid_target=valid_target.copy(),
        test_inputs=padded[:, -1 - MAX_INPUTS : -1].copy(),
        test_target=test_target.copy(),
        valid_history=_history(padded[:, :-2], valid_target),
        test_history=_history(padded[:, :-1], test_target),
        popularity=np.bincount(train[train != PAD], minlength=n_items).astype(np.int64),
    )


def _left_padded(sequences: Sequence[NDArray[np.int32]], n_items: int) -> NDArray[np.int32]:
    """(users, MAX_LENGTH), the newest item in the last column."""
    lengths = np.fromiter((len(sequence) for sequence in sequences), dtype=np.int64, count=len(sequences))
    if len(lengths) == 0:
        raise ValueError("no sequences to split")
    if lengths.min() < MIN_LENGTH or lengths.max() > MAX_LENGTH:
        raise ValueError(
            f"sequences have {lengths.min()} to {lengths.max()} items, not {MIN_LENGTH} to {MAX_LENGTH}: "
            "the source must leave out the short ones and cut the long ones"
        )
    items = np.concatenate(sequences)
    if items.min() < 0 or items.max() >= n_items:
        raise ValueError(f"sequences hold item indices {items.min()} to {items.max()}, not 0 to {n_items - 1}")
    padded = np.full((len(lengths), MAX_LENGTH), PAD, dtype=np.int32)
    # Row by row, the True places come in the order in which the sequences were joined.
    padded[np.arange(MAX_LENGTH) >= MAX_LENGTH - lengths[:, None]] = items
    return padded


def _history(before: NDArray[np.int32], target: NDArray[np.int32]) -> NDArray[np.int32]:
    """(users, MAX_LENGTH - 1): the items before the target without the target itself."""
    history = np.full((len(before), MAX_LENGTH - 1), PAD, dtype=np.int32)
    history[:, MAX_LENGTH - 1 - before.shape[1] :] = np.where(before == target[:, None], PAD, before)
    return history
