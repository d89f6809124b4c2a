"""The recommender: an item encoder (the method's) and the user encoder (the same for every method)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.models.encoders import Inputs
from bench.models.loss import sequence_loss
from bench.models.user_encoder import UserEncoder


@dataclass(frozen=True)
class TrainBatch:
    """What one step needs, on the device.

    Attributes:
        inputs: of the distinct items of the batch (n of them).
        items: (users, 11) index into the distinct items, -1 at padding.
        positions: flat indices of the real inputs among (users, 10).
        log_popularity: log share of training interactions of the distinct items, (n,).
    """

    inputs: Inputs
    items: Tensor
    positions: Tensor
    log_popularity: Tensor


class Recommender(nn.Module):
    """Encodes each distinct item once, gathers the vectors back into sequences, and predicts the next item."""

    def __init__(self, item_encoder: nn.Module, user_encoder: UserEncoder, logit_scale: float = 1.0):
        super().__init__()
        self.item_encoder = item_encoder
        self.user_encoder = user_encoder
        self.logit_scale = logit_scale

    def user_states(self, vectors: Tensor, items: Tensor) -> Tensor:
        """User vector after every input; vectors (n, d), items (users, 10) with -1 at padding."""
        real = items >= 0
        return self.user_encoder(vectors[items.clamp_min(0)], real)

    def forward(self, batch: TrainBatch) -> Tensor:
        """The training loss of a batch."""
        return self.loss(self.item_encoder(batch.inputs), batch.items, batch.positions, batch.log_popularity)

    def loss(self, vectors: Tensor, items: Tensor, positions: Tensor, log_popularity: Tensor) -> Tensor:
        """The loss of item vectors (n, d); the other arguments as in ``TrainBatch``."""
        states = self.user_states(vectors, items[:, :-1])
        return sequence_loss(states, vectors, items, positions, log_popularity, self.logit_scale)

    @torch.no_grad()
    def encode_users(self, vectors: Tensor, items: Tensor) -> Tensor:
        """User vector after the newest input, (users, d)."""
        return self.user_states(vectors, items)[:, -1]
