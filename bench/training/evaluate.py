"""Evaluation by HR@10 and NDCG@10: ranks over the whole catalogue without the history, ties against the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.splits import PAD
from bench.models.inputs import ItemFeed
from bench.models.recommender import Recommender
from bench.scoring.ranking import mean

TOP = 10
# Scores held at once, 16 MiB in 32 bit: they fit into a CPU's cache, which is twice as fast as 128 MiB.
SCORES_AT_ONCE = 1 << 22
ITEMS_AT_ONCE = 256
USERS_AT_ONCE = 4096

Alive = Callable[[], None]


def no_heartbeat() -> None:
    """No-op heartbeat."""


@dataclass(frozen=True)
class Accuracy:
    """HR@10 and NDCG@10 over users."""

    hr: float
    ndcg: float


def accuracy(ranks: NDArray[np.int64]) -> Accuracy:
    """HR@10 and NDCG@10 from the ranks of the targets, best 1, (users,)."""
    return Accuracy(mean(ranks, "hr", TOP), mean(ranks, "ndcg", TOP))


def rank_targets(
    users: Tensor, items: Tensor, targets: NDArray[np.int32], history: NDArray[np.int32], alive: Alive = no_heartbeat
) -> NDArray[np.int64]:
    """Compute the rank of each user's target among all items, in chunks of bounded memory.

    Scores are computed in 32 bit, whatever the precision of the cell. An item that scores as high as the target
    counts as ranked above it. A score that is not a number ranks the target last.

    Args:
        users: user vectors, (users, d).
        items: vectors of all items, (items, d).
        targets: item index of each user's target, (users,).
        history: item indices to leave out, (users, n), padded with PAD; must not contain the target.
        alive: heartbeat, called after every chunk.

    Returns:
        Ranks, best 1, (users,).
    """
    # Under 16-bit autocast scores would tie, and ties count against the model.
    with torch.autocast(users.device.type, enabled=False):
        return _rank_targets(users.float(), items.float(), targets, history, alive)


def _rank_targets(
    users: Tensor, items: Tensor, targets: NDArray[np.int32], history: NDArray[np.int32], alive: Alive
) -> NDArray[np.int64]:
    device, n_items = users.device, len(items)
    target = torch.from_numpy(targets.astype(np.int64)).to(device)[:, None]
    excluded = torch.from_numpy(np.where(history == PAD, targets[:, None], history).astype(np.int64)).to(device)
    ranks = torch.empty(len(users), dtype=torch.long, device=device)
    chunk = max(1, SCORES_AT_ONCE // n_items)
    for start in range(0, len(users), chunk):
        rows = slice(start, start + chunk)
        scores = users[rows] @ items.T
        target_scores = scores.gather(1, target[rows])
        # Exclude the history, and the target's own column, which must not tie with itself.
        scores.scatter_(1, excluded[rows], float("-inf")).scatter_(1, target[rows], float("-inf"))
        # Count the items below the target, not those above: a comparison with NaN is false and must not help the model.
        beaten = torch.count_nonzero(scores < target_scores, dim=1)
        ranks[rows] = (1 + n_items - beaten).clamp_max(n_items)
        alive()
    return ranks.cpu().numpy()


@torch.no_grad()
def encode_catalogue(
    model: Recommender, feed: ItemFeed, n_items: int, device: torch.device, alive: Alive = no_heartbeat
) -> Tensor:
    """Compute the vectors of all items, (items, d).

    Args:
        model: recommender in eval mode.
        feed: gathers the model's inputs for a list of items.
        n_items: number of items in the catalogue.
        device: device of the model.
        alive: heartbeat, called after every chunk of items.
    """
    parts = []
    for start in range(0, n_items, ITEMS_AT_ONCE):
        inputs = feed.gather(np.arange(start, min(start + ITEMS_AT_ONCE, n_items)))
        parts.append(model.item_encoder({k: v.to(device) for k, v in inputs.items()}).float())
        alive()
    return torch.cat(parts)


@torch.no_grad()
def encode_users(
    model: Recommender, vectors: Tensor, sequences: NDArray[np.int32], alive: Alive = no_heartbeat
) -> Tensor:
    """Compute user vectors after the newest input, (users, d).

    Args:
        model: recommender in eval mode.
        vectors: vectors of all items, (items, d).
        sequences: item indices, (users, 10), padded on the left with PAD.
        alive: heartbeat, called after every chunk of users.
    """
    items = torch.from_numpy(sequences.astype(np.int64)).to(vectors.device)
    parts = []
    for chunk in items.split(USERS_AT_ONCE):
        parts.append(model.encode_users(vectors, chunk).float())
        alive()
    return torch.cat(parts)


def evaluate(
    model: Recommender,
    feed: ItemFeed,
    sequences: NDArray[np.int32],
    targets: NDArray[np.int32],
    history: NDArray[np.int32],
    n_items: int,
    device: torch.device,
    alive: Alive = no_heartbeat,
) -> NDArray[np.int64]:
    """Compute the ranks of all users' targets, best 1, (users,).

    The model runs in eval mode; its mode is restored afterwards. For the arguments see :func:`encode_catalogue`,
    :func:`encode_users` and :func:`rank_targets`.
    """
    training = model.training
    model.eval()
    try:
        vectors = encode_catalogue(model, feed, n_items, device, alive)
        return rank_targets(encode_users(model, vectors, sequences, alive), vectors, targets, history, alive)
    finally:
        model.train(training)
