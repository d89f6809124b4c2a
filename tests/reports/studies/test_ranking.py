"""Tests of average ranks over datasets: Friedman's test by formula, critical values of Demsar (JMLR 7, 2006)."""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from reports.studies.ranking import cliques, critical_difference, rank

# Four methods on nine datasets, no two alike on any.
DRAWN = np.random.default_rng(3).permuted(np.arange(4.0)[:, None] + np.zeros((4, 9)), axis=0) / 10
DRAWN[0] += 0.15
ACCURACY = {name: row.tolist() for name, row in zip("abcd", DRAWN, strict=True)}


def test_ranks_and_friedman_written_out() -> None:
    n, k = 9, 4
    places = [[1 + sum(other > own for other in column) for own in column] for column in DRAWN.T.tolist()]
    means = [sum(column[method] for column in places) / n for method in range(k)]
    found = rank(ACCURACY)
    assert found.methods == ("a", "b", "c", "d")
    assert found.ranks.tolist() == pytest.approx(means)
    statistic = 12 * n / (k * (k + 1)) * (sum(mean**2 for mean in means) - k * (k + 1) ** 2 / 4)
    assert found.p == pytest.approx(float(chi2.sf(statistic, k - 1)))
    assert found.difference == pytest.approx(2.569 * math.sqrt(k * (k + 1) / (6 * n)), abs=1e-3)


@pytest.mark.parametrize(
    ("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (8, 3.031), (10, 3.164)]
)
def test_critical_values(k: int, q: float) -> None:
    assert critical_difference(k, 10) == pytest.approx(q * math.sqrt(k * (k + 1) / 60), abs=1e-3)


@pytest.mark.parametrize(("methods", "datasets"), [(4, 4), (2, 9), (1, 9)])
def test_too_few_of_either_are_not_tested(methods: int, datasets: int) -> None:
    found = rank({name: values[:datasets] for name, values in list(ACCURACY.items())[:methods]})
    assert (found.p, found.difference) == (None, None)
    assert found.ranks.sum() == pytest.approx(methods * (methods + 1) / 2)


def test_methods_that_are_always_equal_share_their_ranks() -> None:
    found = rank({name: [0.1, 0.2, 0.3, 0.4, 0.5] for name in "abc"})
    assert np.all(found.ranks == 2)
    assert found.p == 1.0


def test_bars_join_ranks_within_the_critical_difference() -> None:
    assert cliques([1.0, 1.5, 2.2, 3.9], 1.0) == [(1.0, 1.5), (1.5, 2.2)]
    assert cliques([1.0, 1.5, 1.9, 3.9], 1.0) == [(1.0, 1.9)]
    assert cliques([1.0, 3.0], 1.0) == []
