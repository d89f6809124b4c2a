"""The best possible rankings in the shop, from the true probabilities of the generator.

The Bayes ceiling knows the history but not the tastes: it computes the exact posterior over all combinations of
tastes given the whole history, and ranks by the predictive probability. The oracle knows the tastes of the user. Both
rank the last purchase of a user, when late items are on sale, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.shop.shop import FloatArray, ShopTruth


def _totals(truth: ShopTruth, on_sale: NDArray[np.bool_]) -> FloatArray:
    """Sums of the unnormalised probabilities over the items on sale, (habit rows, tastes)."""
    weights = np.exp(truth.log_weight + truth.habit)
    return np.asarray(weights[:, on_sale] @ truth.meets[on_sale])


def _posterior_over_normaliser(
    truth: ShopTruth, before: FloatArray, last: FloatArray, history: NDArray[np.int32]
) -> tuple[FloatArray, int]:
    """posterior(taste | history) / normaliser(taste, history), (tastes,), and the habit row of the last item.

    Posterior and normaliser depend on the taste. The normaliser excludes bought items, which cannot be bought again.

    Args:
        before, last: sums of :func:`_totals` before the last purchase, and for it.
        history: all purchases but the last one, none of them of a late item.
    """
    log_posterior = np.zeros(before.shape[1])
    row = len(before) - 1
    bought: list[int] = []

    def normaliser(totals: FloatArray) -> FloatArray:
        weights = np.exp(truth.log_weight[bought] + truth.habit[row, bought])
        return np.asarray(totals[row] - weights @ truth.meets[bought])

    for item in history.tolist():
        log_posterior += np.log(truth.meets[item]) - np.log(normaliser(before))
        bought.append(item)
        row = int(truth.category[item])
    log_posterior -= log_posterior.max()
    posterior = np.exp(log_posterior)
    return posterior / posterior.sum() / normaliser(last), row


def bayes_scores(truth: ShopTruth, histories: Sequence[NDArray[np.int32]]) -> FloatArray:
    """Predictive probability of every item as the last one after each history, (histories, items).

    Items of the history keep a score.
    """
    before, last = _totals(truth, ~truth.late), _totals(truth, np.ones_like(truth.late))
    pairs = [_posterior_over_normaliser(truth, before, last, history) for history in histories]
    expected = np.stack([ratio for ratio, _ in pairs]) @ truth.meets.T
    rows = np.array([row for _, row in pairs])
    return np.asarray(expected * np.exp(truth.log_weight + truth.habit[rows]))


def oracle_scores(truth: ShopTruth, histories: Sequence[NDArray[np.int32]]) -> FloatArray:
    """Unnormalised probability of every item given the true tastes of each user, (users, items)."""
    first = len(truth.habit) - 1
    rows = np.array([truth.category[h[-1]] if len(h) else first for h in histories])
    return np.asarray(truth.meets[:, truth.user_taste].T * np.exp(truth.log_weight + truth.habit[rows]))
