from itertools import islice

import numpy as np

from bench.data.batches import (
    all_batches,
    batch_digest,
    epoch_batches,
    largest_batch,
    log_popularity,
    make_batch,
    steps_per_epoch,
)
from bench.data.splits import PAD, split


def splits(users: int = 37, items: int = 30):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)
    return split([rng.integers(items, size=rng.integers(5, 14)).astype(np.int32) for _ in range(users)], items)


def test_a_batch_gathers_back_into_its_rows() -> None:
    rows = splits().train[:8]
    batch = make_batch(rows)
    assert np.array_equal(np.where(batch.items >= 0, batch.unique[batch.items], PAD), rows)
    assert len(set(batch.unique.tolist())) == len(batch.unique)
    assert PAD not in batch.unique
    assert set(batch.positions.tolist()) == {u * 10 + t for u in range(8) for t in range(10) if rows[u, t] != PAD}


def test_full_rows_have_no_padding_to_take_off() -> None:
    rows = np.arange(22, dtype=np.int32).reshape(2, 11)
    batch = make_batch(rows)
    assert np.array_equal(batch.unique[batch.items], rows)
    assert len(batch.positions) == 20


def test_an_epoch_takes_every_user_once_in_an_order_of_the_seed() -> None:
    s = splits()
    rows = [
        tuple(np.where(b.items >= 0, b.unique[b.items], PAD)[i])
        for b in epoch_batches(s, 8, 1, 1)
        for i in range(len(b.items))
    ]
    assert sorted(rows) == sorted(map(tuple, s.train.tolist()))
    assert batch_digest(s, 8, 1) == batch_digest(s, 8, 1)
    assert len({batch_digest(s, 8, seed) for seed in range(3)}) == 3
    assert batch_digest(s, 8, 1) != batch_digest(s, 9, 1)


def test_the_last_batch_is_kept_unless_it_is_one_user() -> None:
    assert [len(b.items) for b in epoch_batches(splits(users=37), 8, 0, 1)] == [8, 8, 8, 8, 5]
    assert [len(b.items) for b in epoch_batches(splits(users=33), 8, 0, 1)] == [8, 8, 8, 8]
    assert steps_per_epoch(33, 8) == 4
    assert [b.epoch for b in islice(all_batches(splits(33), 8, 0), 9)] == [1] * 4 + [2] * 4 + [3]


def test_largest_batch() -> None:
    s = splits()
    assert len(largest_batch(s, 8, 0).unique) == max(len(b.unique) for b in epoch_batches(s, 8, 0, 1))


def test_popularity_is_of_training_alone() -> None:
    s = split([np.array([0, 0, 1, 2, 3], dtype=np.int32)], 5)
    assert np.allclose(np.exp(log_popularity(s)), [2 / 3, 1 / 3, 0, 0, 0])
