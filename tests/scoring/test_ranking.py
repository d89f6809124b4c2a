"""Ranking metrics against hand-computed values and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalNormalizedDCG

from bench.data.baselines import rank_scores
from bench.scoring.ranking import METRICS, gains, mean, warm_and_cold


def test_gains_by_hand() -> None:
    ranks = np.array([1, 2, 5, 6, 40])
    assert gains(ranks, "hr", 5).tolist() == [1, 1, 1, 0, 0]
    assert gains(ranks, "mrr", 5).tolist() == [1, 1 / 2, 1 / 5, 0, 0]
    assert gains(ranks, "ndcg", 5) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(6), 0, 0], rel=1e-15)
    assert mean(ranks, "hr", 5) == 3 / 5
    assert mean(ranks, "hr", 1) == mean(ranks, "ndcg", 1) == mean(ranks, "mrr", 1) == 1 / 5


@pytest.mark.parametrize("k", [1, 5, 10])
def test_means_against_torchmetrics(k: int) -> None:
    n_users, n_items = 200, 30
    rng = np.random.default_rng(k)
    scores = rng.normal(size=(n_users, n_items))
    targets = rng.integers(0, n_items, n_users).astype(np.int32)
    ranks = rank_scores(scores, targets, np.full((n_users, 1), -1, dtype=np.int32))
    relevant = torch.zeros(n_users, n_items, dtype=torch.long)
    relevant[torch.arange(n_users), torch.from_numpy(targets).long()] = 1
    users = torch.arange(n_users)[:, None].expand(-1, n_items)
    theirs = {
        "hr": RetrievalHitRate(top_k=k),
        "ndcg": RetrievalNormalizedDCG(top_k=k),
        "mrr": RetrievalMRR(top_k=k),
    }
    assert set(theirs) == set(METRICS)
    for metric, reference in theirs.items():
        expected = float(reference(torch.from_numpy(scores), relevant, indexes=users))
        assert mean(ranks, metric, k) == pytest.approx(expected, abs=1e-6)


def test_values_do_not_depend_on_how_hits_are_counted() -> None:
    """Means over booleans and over their quotients, as published runs computed them, to the last bit."""
    ranks = np.random.default_rng(0).integers(1, 40, 12_077)
    hit = ranks <= 10
    assert mean(ranks, "hr", 10) == float(hit.mean())
    assert mean(ranks, "ndcg", 10) == float((hit / np.log2(ranks + 1.0)).mean())


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([True, False, True], {"warm_": [True, False, True], "cold_": [False, True, False]}),
        ([True, True], {"warm_": [True, True]}),
        ([False], {"cold_": [True]}),
    ],
)
def test_groups_without_users_are_left_out(seen: list[bool], expected: dict[str, list[bool]]) -> None:
    assert {prefix: mask.tolist() for prefix, mask in warm_and_cold(np.array(seen)).items()} == expected
