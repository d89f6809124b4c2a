"""Burying an attribute: [CLS] of middle layers names it, and [CLS] of the last layer does not show it.

Some rows of a batch are twins: the same title or drawing but for the value of the attribute. What tells twins apart in
the last [CLS] state is the attribute, so their distance there is a loss. It is measured relative to the covariance of
all items (a squared Mahalanobis distance), because a linear probe finds a small difference in a direction in which
little else varies, and because scaling the states down must not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.data.shop import world

NAMED_AT = (6, 8)
ERASURE_WEIGHT = 10.0
# Shares of the steps: without erasure the attribute is learnt first, and the weight is full from the second share on.
RAMP = (0.2, 0.5)
COVARIANCE_DECAY = 0.95
# Directions with less variance than this share of the mean variance count as if they had this much.
VARIANCE_FLOOR = 0.003


def with_other_value(traits: world.Traits, name: str, rng: np.random.Generator) -> world.Traits:
    """The same items, each with another value of one attribute."""
    values = getattr(traits, name)
    others = (values + rng.integers(1, world.SIZES[name], size=len(values))) % world.SIZES[name]
    return traits._replace(**{name: others})


class Burial(nn.Module):
    """Loss that keeps an attribute in the middle layers' [CLS] states and takes it out of the last one.

    Args:
        width: size of a [CLS] state.
        n_classes: number of values of the attribute.
        steps: number of training steps; the weight of the erasure grows with them.
        n_last: number of states per item that must not show the attribute.
    """

    def __init__(self, width: int, n_classes: int, steps: int, n_last: int):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(width, n_classes) for _ in NAMED_AT])
        self.erasures = nn.ModuleList([TwinDistance(width) for _ in range(n_last)])
        self.steps, self.step = steps, 0

    def forward(self, states: Sequence[Tensor], last: Sequence[Tensor], labels: Tensor, n_twins: int) -> Tensor:
        """Cross-entropy of the attribute in the middle layers plus the weighted distance of twins in ``last``.

        Args:
            states: [CLS] states after layers 0 (the embeddings) to depth, each (n, width).
            last: the states that must not show the attribute, each (n, width).
            labels: value of the attribute of every row, (n,).
            n_twins: the last ``n_twins`` rows are twins of the first ones.
        """
        named = [F.cross_entropy(head(states[at]), labels) for head, at in zip(self.heads, NAMED_AT, strict=True)]
        distances = [erasure(state, n_twins) for erasure, state in zip(self.erasures, last, strict=True)]
        start, full = (share * self.steps for share in RAMP)
        weight = ERASURE_WEIGHT * min(1.0, max(0.0, (self.step - start) / (full - start)))
        self.step += 1
        return torch.stack(named).mean() + weight * torch.stack(distances).sum()


class TwinDistance(nn.Module):
    """Mean squared Mahalanobis distance of twins, per dimension; 1 for rows that have nothing in common.

    The covariance is a running mean over batches, without a gradient.
    """

    covariance: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("covariance", torch.zeros(width, width))

    def forward(self, states: Tensor, n_twins: int) -> Tensor:
        """Distance of the last ``n_twins`` of (n, width) states from the first ones, a scalar."""
        covariance = states.detach().T.cov(correction=0)
        decay = COVARIANCE_DECAY if self.covariance.any() else 0.0
        self.covariance = decay * self.covariance + (1 - decay) * covariance
        variances, directions = torch.linalg.eigh(self.covariance)
        variances = variances.clamp_min(VARIANCE_FLOOR * variances.mean())
        difference = (states[:n_twins] - states[len(states) - n_twins :]) @ directions
        return (difference.square() / variances).mean() / 2
