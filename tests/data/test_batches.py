"""Batches against plain lists of the same users."""

import warnings
from itertools import islice

import numpy as np
import pytest

from bench.data.batches import (
    Batch,
    all_batches,
    batch_digest,
    epoch_batches,
    largest_batch,
    log_popularity,
    make_batch,
    median_batch,
    smallest_batch,
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


@pytest.mark.parametrize(("users", "steps"), [(9, 1), (10, 2), (11, 2), (16, 2)])
def test_a_last_batch_needs_two_users(users: int, steps: int) -> None:
    assert steps_per_epoch(users, 8) == steps


def as_lists(batch: Batch) -> list[list[int]]:
    return [[batch.epoch], batch.unique.tolist(), *batch.items.tolist()]


@pytest.mark.parametrize("done", [0, 1, 3, 4, 5, 11])
def test_batches_go_on_after_those_that_are_done(done: int) -> None:
    s = splits(33)
    whole = [as_lists(b) for b in islice(all_batches(s, 8, 3), 14)]
    assert [as_lists(b) for b in islice(all_batches(s, 8, 3, done), 14 - done)] == whole[done:]


def test_batches_of_the_first_epoch_by_number_of_distinct_items() -> None:
    """In an epoch of five batches, each of another size; the second epoch and other seeds have other batches."""
    s = splits(users=37, items=400)
    by_size = sorted(epoch_batches(s, 8, 4, 1), key=lambda b: len(b.unique))
    assert len({len(b.unique) for b in by_size}) == len(by_size) == 5
    assert as_lists(smallest_batch(s, 8, 4)) == as_lists(by_size[0])
    assert as_lists(median_batch(s, 8, 4)) == as_lists(by_size[2])
    assert as_lists(largest_batch(s, 8, 4)) == as_lists(by_size[4])


def test_the_median_of_an_even_number_is_the_upper_one_and_of_equals_the_first() -> None:
    s = splits(users=32, items=400)
    by_size = sorted(epoch_batches(s, 8, 0, 1), key=lambda b: len(b.unique))
    assert len(median_batch(s, 8, 0).unique) == len(by_size[2].unique)
    same = split([np.arange(5, dtype=np.int32) for _ in range(160)], 5)
    first = list(epoch_batches(same, 8, 0, 1))[10]
    assert as_lists(median_batch(same, 8, 0)) == as_lists(first)


def test_indices_are_64_bit_and_the_epoch_is_the_first_unless_given() -> None:
    batch = make_batch(splits().train[:8])
    assert batch.epoch == 1
    assert all(array.dtype == np.int64 for array in (batch.unique, batch.items, batch.positions))
    assert batch.items.shape == (8, 11)


def test_popularity_is_of_training_alone() -> None:
    s = split([np.array([0, 0, 1, 2, 3], dtype=np.int32)], 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = log_popularity(s)
    assert found.dtype == np.float32
    assert np.allclose(np.exp(found), [2 / 3, 1 / 3, 0, 0, 0])
