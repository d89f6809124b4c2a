"""Tests of bootstrap, permutation test and Holm's correction against scipy, exact distributions and plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats as reference

from reports.analysis import resampling


def test_bootstrap_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=400)
    low, high = resampling.interval(resampling.resampled_means(values[:, None]))
    found = reference.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", vectorized=True, rng=np.random.default_rng(2)
    ).confidence_interval
    width = found.high - found.low
    assert low[0] == pytest.approx(found.low, abs=0.06 * width)
    assert high[0] == pytest.approx(found.high, abs=0.06 * width)


def test_columns_share_the_draws() -> None:
    values = np.random.default_rng(3).normal(size=(50, 2))
    columns = np.column_stack([values, values[:, 0] - values[:, 1]])
    means = resampling.resampled_means(columns, 300)
    assert means.shape == (300, 3)
    assert means[:, 2] == pytest.approx(means[:, 0] - means[:, 1])


def test_draws_in_pieces_are_all_made(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=(30, 1))
    monkeypatch.setattr(resampling, "_CELLS_AT_ONCE", 30 * 7)
    means = resampling.resampled_means(values, 1000)
    assert means.shape == (1000, 1)
    assert means.std() == pytest.approx(values.std() / np.sqrt(30), rel=0.1)


def test_every_row_is_drawn_equally_often_and_the_same_in_every_run() -> None:
    means = resampling.resampled_means(np.eye(5), 4000)
    assert means.mean(axis=0) == pytest.approx(np.full(5, 0.2), abs=0.01)
    assert resampling.resampled_means(np.eye(5), 4000).tolist() == means.tolist()


def test_interval_leaves_a_fortieth_at_each_end_and_what_is_unknown() -> None:
    values = np.append(np.arange(1001.0), np.nan)
    low, high = resampling.interval(np.random.default_rng(0).permutation(values)[:, None])
    assert (low[0], high[0]) == (25.0, 975.0)


def test_ones_give_ones() -> None:
    assert resampling.resampled_means(np.ones((13, 2)), 50) == pytest.approx(np.ones((50, 2)))


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (5, 5), (12, 0), (60, 41)])
def test_permutation_of_hits_is_the_sign_test(wins: int, losses: int) -> None:
    differences = np.array([1.0] * wins + [-1.0] * losses + [0.0] * 50)
    exact = reference.binomtest(wins, wins + losses).pvalue
    tolerance = 1e-9 if wins + losses <= 13 else 0.02
    assert resampling.permutation_p(differences[:, None])[0] == pytest.approx(exact, abs=tolerance)


def test_permutation_test_of_all_sign_changes() -> None:
    differences = np.random.default_rng(5).normal(0.3, 1, (8, 3))
    sums = [(np.array(signs)[:, None] * differences).sum(axis=0) for signs in itertools.product((1, -1), repeat=8)]
    observed = differences.sum(axis=0)
    above, below = (np.mean([side(one, observed) for one in sums], axis=0) for side in (_at_least, _at_most))
    assert resampling.permutation_p(differences) == pytest.approx(np.minimum(2 * np.minimum(above, below), 1))


def test_random_permutations_are_as_many_as_asked_for_and_the_same_in_every_run() -> None:
    """Of 99 permutations none comes near the observed sum of 40 equal differences."""
    same = np.full((40, 1), 1.0)
    assert resampling.permutation_p(same, 99)[0] == pytest.approx(2 / 100)
    mixed = np.random.default_rng(6).normal(0.1, 1, (40, 1))
    p = resampling.permutation_p(mixed, 99)
    assert round(float(p[0]) * 50, 9) % 1 == 0
    assert resampling.permutation_p(mixed, 99).tolist() == p.tolist()


def _at_least(sums: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return sums >= observed - 1e-12


def _at_most(sums: np.ndarray, observed: np.ndarray) -> np.ndarray:
    return sums <= observed + 1e-12


def test_no_difference_at_all() -> None:
    assert resampling.permutation_p(np.zeros((20, 2))).tolist() == [1.0, 1.0]
    mixed = np.zeros((20, 2))
    mixed[:, 1] = 1.0
    assert resampling.permutation_p(mixed)[0] == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_closed_testing_with_bonferroni(seed: int) -> None:
    p = np.random.default_rng(seed).beta(0.3, 2, 5)
    expected = [
        max(
            min(1.0, len(family) * min(p[list(family)]))
            for size in range(1, 6)
            for family in itertools.combinations(range(5), size)
            if place in family
        )
        for place in range(5)
    ]
    assert resampling.holm(p) == pytest.approx(expected)


def test_holm_ends_at_one() -> None:
    assert resampling.holm(np.array([0.9, 0.3, 0.8])).tolist() == pytest.approx([1.0, 0.9, 1.0])


def test_blocks_of_steps_by_a_plain_loop() -> None:
    series = np.random.default_rng(6).normal(size=29)
    length = resampling.block_length(29)
    assert length == 4
    found = resampling.resampled_block_means(series, np.random.default_rng(8), 50)
    starts = np.random.default_rng(8).integers(0, 29, (50, 8))
    by_hand = [np.mean([series[(start + step) % 29] for start in row for step in range(length)]) for row in starts]
    assert found == pytest.approx(by_hand)


def test_neighbours_that_move_together_make_the_interval_wider() -> None:
    draw = np.random.default_rng(9)
    series = np.repeat(draw.normal(size=60), 5)
    shuffled = draw.permutation(series)
    together, apart = (resampling.resampled_block_means(values, draw).std() for values in (series, shuffled))
    assert apart == pytest.approx(series.std() / np.sqrt(300), rel=0.15)
    assert together > 1.5 * apart


@pytest.mark.parametrize(("n", "length"), [(1, 1), (8, 2), (27, 3), (28, 4), (1000, 10)])
def test_block_length(n: int, length: int) -> None:
    assert resampling.block_length(n) == length
    assert resampling.resampled_block_means(np.full(n, 2.5), np.random.default_rng(0), 7) == pytest.approx(
        np.full(7, 2.5)
    )


def test_drawing_seeds() -> None:
    per_seed = [np.full(4000, value) for value in (1.0, 2.0, 6.0)]
    drawn = resampling.over_seeds(per_seed, 4000)
    possible = {sum(three) / 3 for three in itertools.product((1.0, 2.0, 6.0), repeat=3)}
    assert {round(value, 9) for value in drawn.tolist()} == {round(value, 9) for value in possible}
    assert drawn.mean() == pytest.approx(3.0, abs=0.1)
    assert resampling.over_seeds([values + 10 for values in per_seed], 4000) == pytest.approx(drawn + 10)
    assert resampling.over_seeds([np.arange(5.0)], 5).tolist() == [0, 1, 2, 3, 4]


def test_generators_differ_by_name_and_not_by_run() -> None:
    first, again, other = (resampling.generator_for(name, 1).random() for name in ("a", "a", "b"))
    assert first == again != other
