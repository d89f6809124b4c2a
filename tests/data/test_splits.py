"""Splits against a plain reading of the rules, user by user."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.data.splits import MAX_INPUTS, MAX_LENGTH, MIN_LENGTH, PAD, Splits, split

N_ITEMS = 40


def as_arrays(*sequences: list[int]) -> list[NDArray[np.int32]]:
    return [np.array(sequence, dtype=np.int32) for sequence in sequences]


@pytest.fixture(scope="module")
def users() -> list[list[int]]:
    """Sequences of all lengths, with repeated items."""
    rng = np.random.default_rng(5)
    return [rng.integers(0, N_ITEMS, rng.integers(MIN_LENGTH, MAX_LENGTH + 1)).tolist() for _ in range(300)]


@pytest.fixture(scope="module")
def splits(users: list[list[int]]) -> Splits:
    return split(as_arrays(*users), N_ITEMS)


def test_the_longest_user() -> None:
    one = split(as_arrays(list(range(13))), 13)
    assert one.train.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert one.valid_inputs.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert one.valid_target.tolist() == [11]
    assert one.test_inputs.tolist() == [[2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert one.test_target.tolist() == [12]
    assert one.valid_history.tolist() == [[-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]]
    assert one.test_history.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert one.popularity.tolist() == [1] * 11 + [0, 0]


def test_targets_that_training_has_seen() -> None:
    """Items that are validation targets or test targets alone have not been seen, nor those of another user's test."""
    one = split(as_arrays([0, 1, 2, 3, 4], [5, 6, 7, 4, 2], [8, 9, 0, 3, 3]), 10)
    assert one.test_target.tolist() == [4, 2, 3]
    assert one.test_seen.tolist() == [False, True, False]


def test_the_shortest_user() -> None:
    one = split(as_arrays([7, 3, 9, 1, 4]), 10)
    assert one.train.tolist() == [[PAD] * 8 + [7, 3, 9]]
    assert one.valid_inputs.tolist() == [[PAD] * 7 + [7, 3, 9]]
    assert one.test_inputs.tolist() == [[PAD] * 6 + [7, 3, 9, 1]]
    assert (one.valid_target.tolist(), one.test_target.tolist()) == ([1], [4])


def test_a_target_bought_before_is_not_in_the_history() -> None:
    one = split(as_arrays([4, 2, 8, 2, 8]), 10)
    assert set(one.valid_history[0].tolist()) - {PAD} == {4, 8}, "the validation target 2 must be rankable"
    assert set(one.test_history[0].tolist()) - {PAD} == {4, 2}, "the test target 8 must be rankable"
    assert one.test_inputs[0, -4:].tolist() == [4, 2, 8, 2], "the model still sees it"


def test_every_user_against_lists(users: list[list[int]], splits: Splits) -> None:
    def row(items: list[int], width: int) -> list[int]:
        return [PAD] * (width - len(items)) + items

    for user, items in enumerate(users):
        *seen, valid, test = items
        assert splits.train[user].tolist() == row(seen, 11)
        assert splits.valid_inputs[user].tolist() == row(seen[-10:], 10)
        assert splits.test_inputs[user].tolist() == row([*seen, valid][-10:], 10)
        assert (splits.valid_target[user], splits.test_target[user]) == (valid, test)
        assert set(splits.valid_history[user].tolist()) - {PAD} == set(seen) - {valid}
        assert set(splits.test_history[user].tolist()) - {PAD} == {*seen, valid} - {test}


def test_popularity_counts_training_alone(users: list[list[int]], splits: Splits) -> None:
    counts = Counter(item for items in users for item in items[:-2])
    assert splits.popularity.tolist() == [counts[item] for item in range(N_ITEMS)]
    assert splits.popularity.dtype == np.int64


def test_items_that_are_only_targets_have_no_popularity() -> None:
    one = split(as_arrays([0, 1, 2, 3, 4]), 6)
    assert one.popularity.tolist() == [1, 1, 1, 0, 0, 0]


def test_arrays_are_what_the_contract_says(splits: Splits) -> None:
    widths = {
        "train": 11,
        "valid_inputs": MAX_INPUTS,
        "test_inputs": MAX_INPUTS,
        "valid_history": 12,
        "test_history": 12,
    }
    for name, width in widths.items():
        array = getattr(splits, name)
        assert (array.shape, array.dtype) == ((300, width), np.int32), name
        assert array.flags.c_contiguous, name
    assert splits.valid_target.shape == splits.test_target.shape == (300,)


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([], "no sequences"),
        ([[1, 2, 3, 4]], "4 to 4 items"),
        ([[1, 2, 3, 4, 5], list(range(14))], "5 to 14 items"),
        ([[1, 2, 3, 4, 20]], "1 to 20"),
        ([[1, 2, 3, 4, -1]], "-1 to 4"),
    ],
)
def test_sequences_that_no_catalogue_may_hold(sequences: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(as_arrays(*sequences), 20)


def test_everyone_is_in_every_part(splits: Splits) -> None:
    for part in (splits.train_users, splits.valid_users, splits.test_users):
        assert part.tolist() == list(range(300))


def test_cuts_say_who_is_in_which_part() -> None:
    sequences = as_arrays([0, 1, 2, 3, 4], [5, 6], [7, 8], [1, 9])
    cuts = np.array([[2, 2, 4], [2, -1, -1], [0, 1, -1], [0, -1, 1]], dtype=np.int32)
    one = split(sequences, 10, cuts)
    assert (one.train_users.tolist(), one.valid_users.tolist(), one.test_users.tolist()) == ([0, 1], [0, 2], [0, 3])
    assert one.train[:, -2:].tolist() == [[0, 1], [5, 6]]
    assert (one.valid_target.tolist(), one.test_target.tolist()) == ([2, 8], [4, 9])
    assert one.test_inputs[:, -4:].tolist() == [[0, 1, 2, 3], [PAD, PAD, PAD, 1]]
    assert one.popularity.tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    "cuts",
    [
        [[3, 2, 4]],
        [[2, 3, 2]],
        [[2, 2, 5]],
        [[2, 0, 4]],
        [[2, 3, 3]],
        [[6, -1, -1]],
        [[-1, 2, 4]],
        [[2, 2]],
        [[2, 2, 4]] * 2,
    ],
)
def test_cuts_that_no_catalogue_may_hold(cuts: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="cut"):
        split(as_arrays([0, 1, 2, 3, 4]), 10, np.array(cuts, dtype=np.int32))


def test_targets_may_follow_at_once_and_the_user_at_fault_is_named() -> None:
    sequences = as_arrays([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])
    at_once = split(sequences, 10, np.array([[0, 1, 2], [1, 1, 2]], dtype=np.int32))
    assert (at_once.valid_target.tolist(), at_once.test_target.tolist()) == ([1, 6], [2, 7])
    with pytest.raises(ValueError, match=r"user 1 of 5 items cannot be cut at \[2, 3, 3\]"):
        split(sequences, 10, np.array([[0, 1, 2], [2, 3, 3]], dtype=np.int32))
