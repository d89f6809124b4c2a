"""Batches of user sequences: distinct items once, without padding, in an order that depends on seed and epoch alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from bench.data.splits import PAD, Splits

DIGEST_BATCHES = 100


@dataclass(frozen=True, eq=False)
class Batch:
    """Training rows of some users.

    Attributes:
        epoch: number of the epoch, from 1.
        unique: distinct items, (n,), ascending.
        items: indices into ``unique``, (users, 11), -1 at padding.
        positions: flat indices of the real inputs among (users, 10).
    """

    epoch: int
    unique: NDArray[np.int64]
    items: NDArray[np.int64]
    positions: NDArray[np.int64]


def make_batch(rows: NDArray[np.int32], epoch: int = 1) -> Batch:
    """Batch of training rows, (users, 11), as in :class:`Splits`."""
    unique, inverse = np.unique(rows, return_inverse=True)
    padded = int(unique[0] == PAD)
    items = inverse.reshape(rows.shape).astype(np.int64) - padded
    positions = np.flatnonzero(items[:, :-1] >= 0)
    return Batch(epoch, unique[padded:].astype(np.int64), items, positions)


def steps_per_epoch(users: int, batch_size: int) -> int:
    """Number of batches per epoch.

    The last batch may be smaller. A last batch of a single user is left out, because its loss would have no other
    user's items to compare with.
    """
    return users // batch_size + (users % batch_size >= 2)


def epoch_batches(splits: Splits, batch_size: int, seed: int, epoch: int) -> Iterator[Batch]:
    """Batches of one pass over all users, in an order that depends on seed and epoch alone."""
    order = np.random.default_rng([seed, epoch]).permutation(len(splits.train))
    for step in range(steps_per_epoch(len(order), batch_size)):
        yield make_batch(splits.train[order[step * batch_size : (step + 1) * batch_size]], epoch)


def all_batches(splits: Splits, batch_size: int, seed: int, done: int = 0) -> Iterator[Batch]:
    """Batches of epoch after epoch, without end, except the first ``done`` batches."""
    epochs, steps = divmod(done, steps_per_epoch(len(splits.train), batch_size))
    yield from islice(epoch_batches(splits, batch_size, seed, epochs + 1), steps, None)
    for epoch in count(epochs + 2):
        yield from epoch_batches(splits, batch_size, seed, epoch)


def batch_digest(splits: Splits, batch_size: int, seed: int) -> str:
    """SHA-256 of the first `DIGEST_BATCHES` batches: equal digests mean that two runs trained on equal batches."""
    digest = hashlib.sha256()
    for batch in islice(all_batches(splits, batch_size, seed), DIGEST_BATCHES):
        digest.update(batch.unique.tobytes() + batch.items.tobytes())
    return digest.hexdigest()


def largest_batch(splits: Splits, batch_size: int, seed: int) -> Batch:
    """Batch of the first epoch with the most distinct items, on which memory peaks."""
    return max(epoch_batches(splits, batch_size, seed, 1), key=lambda batch: len(batch.unique))


def smallest_batch(splits: Splits, batch_size: int, seed: int) -> Batch:
    """Batch of the first epoch with the fewest distinct items, usually the shorter last batch."""
    return min(epoch_batches(splits, batch_size, seed, 1), key=lambda batch: len(batch.unique))


def median_batch(splits: Splits, batch_size: int, seed: int) -> Batch:
    """Batch of the first epoch with the median number of distinct items, which represents a median step."""
    sizes = [len(batch.unique) for batch in epoch_batches(splits, batch_size, seed, 1)]
    place = int(np.argsort(sizes, kind="stable")[len(sizes) // 2])
    # Made a second time: all batches of a large epoch would not fit into memory.
    return next(islice(epoch_batches(splits, batch_size, seed, 1), place, None))


def log_popularity(splits: Splits) -> NDArray[np.float32]:
    """Log share of training interactions per item, (items,); -inf for items that training never sees."""
    with np.errstate(divide="ignore"):
        return np.log(splits.popularity / splits.popularity.sum()).astype(np.float32)
