"""The split in time, against a plain walk over each user's interactions."""

from pathlib import Path

import numpy as np
import pytest

from bench.data.ragged import Ragged
from bench.data.readers.interactions import Items, Log
from bench.data.readers.selection import Temporal, select
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.splits import PAD, Splits, split
from bench.utils.errors import UserError
from tests.data.tables import write_table

N_ITEMS = 25
VALID_FROM, TEST_FROM = 40, 70
Users = list[list[tuple[int, int]]]


def log_of(users: Users) -> Log:
    """Users as (time, item) pairs, oldest first."""
    items = Items([f"i{n}" for n in range(N_ITEMS)], ["t"] * N_ITEMS, None, {}, 0, {})
    rows = Ragged.of([np.array([item for _, item in user], dtype=np.int32) for user in users])
    times = np.array([time for user in users for time, _ in user], dtype=np.int64)
    return Log(items, [f"u{n}" for n in range(len(users))], rows, times, "number", {}, ())


def split_in_time(users: Users) -> tuple[list[int], Splits]:
    chosen = select(log_of(users), Temporal(VALID_FROM, TEST_FROM))
    return chosen.users.tolist(), split(chosen.sequences, N_ITEMS, chosen.cuts)


def padded(items: list[int], width: int) -> list[int]:
    return [PAD] * (width - len(items[-width:])) + items[-width:]


def check_against_a_plain_walk(users: Users) -> None:
    kept, splits = split_in_time(users)
    counts = np.zeros(N_ITEMS, dtype=np.int64)
    train, valid, test = {}, {}, {}
    for number, user in enumerate(users):
        if len(user) < 5:
            continue
        seen = [item for time, item in user if time < VALID_FROM]
        if len(seen) >= 2:
            train[number] = padded(seen, 11)
            np.add.at(counts, seen[-11:], 1)
        for part, start, end in ((valid, VALID_FROM, TEST_FROM), (test, TEST_FROM, 10**9)):
            before = [item for time, item in user if time < start]
            targets = [item for time, item in user if start <= time < end]
            if before and targets:
                history = set(before[-12:]) - {targets[0]}
                part[number] = (padded(before, 10), targets[0], history)
    assert kept == sorted({*train, *valid, *test})
    assert [kept[row] for row in splits.train_users] == list(train)
    assert splits.train.tolist() == list(train.values())
    assert splits.popularity.tolist() == counts.tolist()
    for part, rows, inputs, target, history in (
        (valid, splits.valid_users, splits.valid_inputs, splits.valid_target, splits.valid_history),
        (test, splits.test_users, splits.test_inputs, splits.test_target, splits.test_history),
    ):
        assert [kept[row] for row in rows] == list(part)
        found = zip(inputs.tolist(), target.tolist(), (set(row) - {PAD} for row in history.tolist()), strict=True)
        assert list(found) == list(part.values())


SOUND = [[(10, 1), (20, 2), (50, 3), (60, 4), (80, 5), (90, 6)]]  # so that no part is ever empty


@pytest.mark.parametrize("seed", range(40))
def test_any_users_against_a_plain_walk(seed: int) -> None:
    rng = np.random.default_rng(seed)
    users = []
    for length in rng.integers(0, 45, rng.integers(0, 30)):
        # Times from all over, or crowded into one part; with ties.
        low, high = sorted(rng.integers(0, 101, 2)) if rng.random() < 0.5 else (0, 100)
        times = np.sort(rng.integers(low, high + 1, length))
        users.append(list(zip(times.tolist(), rng.integers(0, N_ITEMS, length).tolist(), strict=True)))
    check_against_a_plain_walk(SOUND + users)


def test_the_first_interaction_from_a_moment_on_is_the_target() -> None:
    _, splits = split_in_time(SOUND)
    assert splits.train.tolist() == [[PAD] * 9 + [1, 2]]
    assert (splits.valid_target.tolist(), splits.test_target.tolist()) == ([3], [5])
    assert splits.test_inputs[0, -4:].tolist() == [1, 2, 3, 4]


def test_a_moment_belongs_to_what_comes_after_it() -> None:
    _, splits = split_in_time([[(1, 1), (39, 2), (VALID_FROM, 3), (69, 4), (TEST_FROM, 5)]])
    assert set(splits.train[0].tolist()) - {PAD} == {1, 2}
    assert (splits.valid_target.tolist(), splits.test_target.tolist()) == ([3], [5])


def test_what_no_part_looks_at_is_counted() -> None:
    early = [(time, time % N_ITEMS) for time in range(30)]  # 30 to train on: the last 11 are looked at
    late = [(80 + n, n) for n in range(6)]  # nothing before the test: no input
    chosen = select(log_of([*SOUND, early, late]), Temporal(VALID_FROM, TEST_FROM))
    assert chosen.users.tolist() == [0, 1]
    assert chosen.dropped["users with nothing to train on or to be tested on"] == 1
    assert chosen.dropped["interactions of users with nothing to train on or to be tested on"] == 6
    assert chosen.dropped["interactions older than a user's inputs and history"] == 19
    assert chosen.dropped["interactions after a user's last target"] == 1
    assert 6 not in chosen.used.tolist() or 6 in [item for _, item in early[-11:]]


@pytest.mark.parametrize(
    ("users", "said"),
    [
        ([[(50, 1), (51, 2), (52, 3), (80, 4), (81, 5)]], "nothing to train on"),
        ([[(1, 1), (2, 2), (3, 3), (80, 4), (81, 5)]], "nothing to validate on"),
        ([[(1, 1), (2, 2), (3, 3), (50, 4), (51, 5)]], "nothing to test on"),
        ([[(1, 1), (2, 2)]], "no user has 5 interactions"),
    ],
)
def test_parts_that_nobody_is_in(users: Users, said: str) -> None:
    with pytest.raises(UserError, match=said):
        select(log_of(users), Temporal(VALID_FROM, TEST_FROM))


# From files

ROWS = [(f"u{u}", f"B{(7 * u + n) % 30}", f"2024-0{1 + n}-01") for u in range(8) for n in range(7)]


def test_moments_from_files(tmp_path: Path) -> None:
    write_table(tmp_path, rows=ROWS)
    config = FilesConfig("table", tmp_path, valid_from="2024-05-01", test_from="2024-06-15")
    found = load_files(config, None)
    assert found.cuts is not None
    assert found.cuts.tolist() == [[4, 4, 6]] * 8
    again = load_files(config, None)
    assert np.array_equal(again.cuts, found.cuts), "from the cache"
    assert found.digest != load_files(FilesConfig("table", tmp_path), None).digest


@pytest.mark.parametrize(
    ("valid_from", "test_from", "said"),
    [
        ("2024-06-01", "2024-05-01", r"--valid-from 2024-06-01: must be before --test-from"),
        ("5", "2024-05-01", r"--valid-from 5: the timestamps are dates"),
        ("2024-05-01", "soon", r"--test-from soon: the timestamps are dates"),
        ("2025-05-01", "2025-06-01", r"nothing to validate on"),
    ],
)
def test_moments_that_cannot_be(valid_from: str, test_from: str, said: str, tmp_path: Path) -> None:
    write_table(tmp_path, rows=ROWS)
    with pytest.raises(UserError, match=said):
        load_files(FilesConfig("table", tmp_path, valid_from=valid_from, test_from=test_from), None)


def test_a_split_in_time_needs_times(tmp_path: Path) -> None:
    write_table(tmp_path, rows=ROWS, timed=False)
    with pytest.raises(
        UserError,
        match=r"interactions\.csv: no timestamps for --split temporal; name their",
    ):
        load_files(FilesConfig("table", tmp_path, valid_from="1", test_from="2"), None)
