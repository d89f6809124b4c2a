"""The recommender: an item encoder (the method's) and the user encoder (the same for every method)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.encoders import Inputs


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


LAYER_NORM_EPS = 1e-6


class Block(nn.Module):
    """Post-norm block: causal self-attention without biases, then a ReLU MLP of four times the width."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm1 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.norm2 = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.dropout = dropout

    def _attend(self, x: Tensor, allowed: Tensor) -> Tensor:
        n, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(n, length, self.heads, -1).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(
            split(self.query(x)),
            split(self.key(x)),
            split(self.value(x)),
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.output(mixed.transpose(1, 2).reshape(n, length, width))

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x (n, length, width); allowed (n, 1, length, length) bool, True where a query may look at a key."""
        x = self.norm1(x + F.dropout(self._attend(x, allowed), self.dropout, self.training))
        inner = self.outer(F.relu(self.inner(x)))
        return self.norm2(x + F.dropout(inner, self.dropout, self.training))


class UserEncoder(nn.Module):
    """Learned positions and a LayerNorm on item vector + position, then causal blocks.

    Args:
        width: d of item and user vectors.
        positions: longest input; sequences are left-padded, so the newest input sits at the last position.
    """

    def __init__(self, width: int = 64, positions: int = 10, n_blocks: int = 2, heads: int = 2, dropout: float = 0.1):
        super().__init__()
        self.positions = nn.Parameter(torch.empty(positions, width))
        nn.init.normal_(self.positions, std=0.02)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(n_blocks)])
        self.dropout = dropout
        self.register_buffer("causal", torch.ones(positions, positions, dtype=torch.bool).tril(), persistent=False)
        self.register_buffer("diagonal", torch.eye(positions, dtype=torch.bool), persistent=False)

    causal: Tensor
    diagonal: Tensor

    def forward(self, items: Tensor, real: Tensor) -> Tensor:
        """User vector after each position.

        Args:
            items: item vectors, (n, positions, width); padding may hold anything finite.
            real: (n, positions) bool, False at padding.

        Returns:
            (n, positions, width); what stands at padding is meaningless.
        """
        # A padded query may look at itself, or its softmax would have nothing to sum over.
        allowed = self.causal & (real[:, None, None, :] | self.diagonal)
        x = F.dropout(self.norm(items + self.positions), self.dropout, self.training)
        for block in self.blocks:
            x = block(x, allowed)
        return x
