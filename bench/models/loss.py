"""In-batch softmax loss with popularity correction (IISAN, eq. 6 and its released code), without Python loops."""

from __future__ import annotations

import torch
from torch import Tensor


def sequence_loss(
    states: Tensor,
    vectors: Tensor,
    items: Tensor,
    positions: Tensor,
    log_popularity: Tensor,
    logit_scale: float = 1.0,
) -> Tensor:
    """Mean cross-entropy of the next item over all real input positions.

    The candidates of a position are all item positions of the batch, so an item that stands in it three times
    counts three times; here distinct items are scored once and weighted by their multiplicity. A position that
    holds an item of the same user is no candidate, the target itself excepted.

    Args:
        states: user vectors, (users, length - 1, d).
        vectors: vectors of the distinct items of the batch, (n, d).
        items: (users, length) index into ``vectors``, -1 at padding (left); the last one is only a target.
        positions: flat indices of the real inputs among (users, length - 1); made on the host, because a size
            that depends on values would stall a GPU and cannot be planned without data.
        log_popularity: log share of training interactions per distinct item, (n,).
        logit_scale: factor on the dot products.
    """
    target = items[:, 1:].flatten()[positions, None]
    users = positions // (items.shape[1] - 1)

    real = items >= 0
    n = len(vectors)
    spread = torch.where(real, items, n)
    owned = torch.zeros(len(items), n + 1, dtype=torch.bool, device=items.device).scatter_(1, spread, True)[:, :n]
    counts = torch.zeros(n + 1, dtype=torch.float32, device=items.device)
    counts = counts.scatter_add_(0, spread.flatten(), torch.ones_like(spread.flatten(), dtype=torch.float32))[:n]

    # Autocast may have left 16-bit vectors; the softmax is summed in 32 bit (or 64, if that is what came in).
    dtype = torch.promote_types(states.dtype, torch.float32)
    scores = states.flatten(0, 1)[positions] @ vectors.to(states.dtype).T
    logits = scores.to(dtype) * logit_scale - log_popularity.to(dtype)
    positive = logits.gather(1, target)
    negative = (logits + counts.to(dtype).log()).masked_fill(owned[users], float("-inf"))
    everything = torch.cat([negative, positive], dim=1).logsumexp(dim=1)
    return (everything - positive[:, 0]).mean()
