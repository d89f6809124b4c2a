"""Reference accuracies: random and popularity rankings, and in the shop the Bayes ceiling and the oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.catalogue import Catalogue
from bench.data.config import DatasetConfig
from bench.data.datasets import shop_config
from bench.data.kinds import GENERATED
from bench.data.shop import shop, truth
from bench.data.splits import PAD, Splits
from bench.scoring.ranking import gains, mean, warm_and_cold

TOP = 10
Metrics = dict[str, float]
"""Keys ``hr@10`` and ``ndcg@10``; the references also have both for warm and for cold targets, if there are any."""


def references(config: DatasetConfig, catalogue: Catalogue, splits: Splits) -> dict[str, Metrics]:
    """Test HR@10 and NDCG@10 by reference: random, popularity and, in the shop, bayes and oracle.

    The same metrics of the warm and of the cold targets have the prefixes of `bench.scoring.ranking.warm_and_cold`. The
    Bayes ceiling sees the whole history, up to 12 items; the models see its last 10.
    """
    target, history = splits.test_target, splits.test_history
    n_items = len(catalogue.item_ids)
    parts = {"": np.ones(len(target), dtype=np.bool_), **warm_and_cold(splits.test_seen)}

    def by_part(metrics: Callable[[Any], Metrics], values: NDArray[Any]) -> Metrics:
        return {
            f"{prefix}{name}": value for prefix, rows in parts.items() for name, value in metrics(values[rows]).items()
        }

    found = {
        "random": by_part(partial(random_floor, n_items), history),
        "popularity": by_part(_metrics, popularity_ranks(splits)),
    }
    if config.name == GENERATED:
        known = shop.make_truth(shop_config(config))
        before = [sequence[:-1] for sequence in catalogue.sequences]
        for name, score in (("bayes", truth.bayes_scores), ("oracle", truth.oracle_scores)):
            found[name] = by_part(_metrics, rank_scores(score(known, before), target, history))
    return found


def _metrics(ranks: NDArray[np.int64]) -> Metrics:
    return {f"{metric}@{TOP}": mean(ranks, metric, TOP) for metric in ("hr", "ndcg")}


def random_floor(n_items: int, history: NDArray[np.int32]) -> Metrics:
    """Exact expectation of the metrics of a random ranking of the items outside the history.

    Args:
        n_items: size of the catalogue.
        history: items left out of each user's ranking, (users, n) with PAD; never the target.
    """
    ordered, first = _distinct(history)
    candidates = n_items - (first & (ordered != PAD)).sum(axis=1)
    reached = np.minimum(candidates, TOP)
    # Every rank is equally likely: the expectation is the sum of the gains over the ranks that exist.
    ndcg = np.cumsum(gains(np.arange(1, TOP + 1), "ndcg", TOP))[reached - 1] / candidates
    return {f"hr@{TOP}": float((reached / candidates).mean()), f"ndcg@{TOP}": float(ndcg.mean())}


def popularity_ranks(splits: Splits) -> NDArray[np.int64]:
    """Ranks of the test targets by number of training interactions, (test users,).

    The history is left out, and ties count against the ranking. The ranks are counted from the sorted numbers, because
    a table of users and items would not fit into memory.
    """
    counts = splits.popularity
    own = counts[splits.test_target]
    not_below = len(counts) - np.searchsorted(np.sort(counts), own)
    history, first = _distinct(splits.test_history)
    left_out = first & (history != PAD) & (counts[history] >= own[:, None])
    return np.asarray(not_below - left_out.sum(axis=1), dtype=np.int64)


def rank_scores(
    scores: NDArray[np.float64], target: NDArray[np.int32], history: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Ranks of the targets by their scores, best 1, (users,); ties count against the ranking.

    Args:
        scores: (users, items).
        target: (users,).
        history: items left out of each user's ranking, (users, n) with PAD; never the target.
    """
    scores = scores.copy()
    users, columns = np.nonzero(history != PAD)
    scores[users, history[users, columns]] = -np.inf
    own = np.take_along_axis(scores, target[:, None].astype(np.int64), axis=1)
    return np.asarray((scores >= own).sum(axis=1))


def _distinct(history: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Each row in ascending order, and a mask of the first place of every distinct item in it."""
    ordered = np.sort(history, axis=1)
    first = np.ones(ordered.shape, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first
