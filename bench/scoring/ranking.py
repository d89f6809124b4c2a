"""Ranking metrics of users with one target each: HR@k, NDCG@k and MRR@k from the ranks of the targets.

A metric is the mean over users of a gain, which is 0 if the target's rank r is greater than k, and else

- HR@k (hit rate): 1;
- NDCG@k (normalised discounted cumulative gain): 1 / log2(r + 1), as the ideal ranking of one target has gain 1;
- MRR@k (mean reciprocal rank): 1 / r.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]
"""Ranks of the users' targets, best 1, (users,)."""
Gains = NDArray[np.float64]
Mask = NDArray[np.bool_]

_GAINS: Mapping[str, Callable[[Ranks], Gains]] = {
    "hr": lambda ranks: np.ones(len(ranks)),
    "ndcg": lambda ranks: 1 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}
METRICS = tuple(_GAINS)


def gains(ranks: Ranks, metric: str, k: int) -> Gains:
    """Gain of each user, (users,).

    Args:
        ranks: ranks of the targets, best 1, (users,).
        metric: one of `METRICS`.
        k: length of the ranking that counts.
    """
    return np.where(ranks <= k, _GAINS[metric](ranks), 0.0)


def mean(ranks: Ranks, metric: str, k: int) -> float:
    """Value of a metric: the mean of the `gains`."""
    return float(gains(ranks, metric, k).mean())


def warm_and_cold(seen: Mask) -> dict[str, Mask]:
    """Masks of the users with warm and with cold targets, by the prefix of their columns, without empty ones.

    Args:
        seen: True if training has seen the target of the user, (users,); such a target is warm, any other is cold.
    """
    return {prefix: mask for prefix, mask in (("warm_", seen), ("cold_", ~seen)) if mask.any()}
