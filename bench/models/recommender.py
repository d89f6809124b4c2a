"""Sequential recommender: the method's item encoder, the user encoder that all methods share, and the training loss.

The user encoder and the loss follow IISAN (Fu et al., SIGIR 2024, arXiv 2404.02059) and its released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.encoders import Inputs

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True)
class TrainBatch:
    """Tensors of one training step, on the device.

    Attributes:
        inputs: encoder inputs of the n distinct items of the batch.
        items: (users, 11), index into the distinct items, -1 at padding.
        positions: flat indices of the real inputs among (users, 10).
        log_popularity: log of each distinct item's share of the training interactions, (n,).
    """

    inputs: Inputs
    items: Tensor
    positions: Tensor
    log_popularity: Tensor


class Recommender(nn.Module):
    """Item encoder and user encoder: each distinct item is encoded once, and its vector is gathered into sequences."""

    def __init__(self, item_encoder: nn.Module, user_encoder: UserEncoder, logit_scale: float = 1.0):
        super().__init__()
        self.item_encoder = item_encoder
        self.user_encoder = user_encoder
        self.logit_scale = logit_scale

    def user_states(self, vectors: Tensor, items: Tensor) -> Tensor:
        """User vectors after every input, (users, 10, d), from vectors (n, d) and items (users, 10), -1 at padding."""
        real = items >= 0
        return self.user_encoder(vectors[items.clamp_min(0)], real)

    def forward(self, batch: TrainBatch) -> Tensor:
        """Training loss of a batch, a scalar."""
        return self.loss(self.item_encoder(batch.inputs), batch.items, batch.positions, batch.log_popularity)

    def loss(self, vectors: Tensor, items: Tensor, positions: Tensor, log_popularity: Tensor) -> Tensor:
        """Training loss for given item vectors (n, d); the other arguments are those of :class:`TrainBatch`."""
        states = self.user_states(vectors, items[:, :-1])
        return sequence_loss(states, vectors, items, positions, log_popularity, self.logit_scale)

    @torch.no_grad()
    def encode_users(self, vectors: Tensor, items: Tensor) -> Tensor:
        """User vectors after the newest input, (users, d), from vectors (n, d) and items (users, 10)."""
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

    The candidates of a position are all item positions of the batch, so an item that occurs three times counts
    three times; distinct items are scored once and weighted by their multiplicity. Positions with an item of the
    same user are masked out, except the target. Logits are corrected by log-popularity.

    Args:
        states: user vectors, (users, length - 1, d).
        vectors: vectors of the distinct items of the batch, (n, d).
        items: (users, length), index into ``vectors``, -1 at padding (left); the last item is a target only.
        positions: flat indices of the real inputs among (users, length - 1); computed on the host, because a size
            that depends on values would stall a GPU and could not be planned without data.
        log_popularity: log of each distinct item's share of the training interactions, (n,).
        logit_scale: factor on the dot products.
    """
    target = items[:, 1:].flatten()[positions, None]
    users = positions // (items.shape[1] - 1)

    real = items >= 0
    n = len(vectors)
    slots = torch.where(real, items, n)
    owned = torch.zeros(len(items), n + 1, dtype=torch.bool, device=items.device).scatter_(1, slots, True)[:, :n]
    counts = torch.zeros(n + 1, dtype=torch.float32, device=items.device)
    counts = counts.scatter_add_(0, slots.flatten(), torch.ones_like(slots.flatten(), dtype=torch.float32))[:n]

    # Autocast may have left 16-bit vectors; the softmax is summed in 32 bit, or in 64 bit for 64-bit vectors.
    dtype = torch.promote_types(states.dtype, torch.float32)
    scores = states.flatten(0, 1)[positions] @ vectors.to(states.dtype).T
    logits = scores.to(dtype) * logit_scale - log_popularity.to(dtype)
    positive = logits.gather(1, target)
    negative = (logits + counts.to(dtype).log()).masked_fill(owned[users], float("-inf"))
    normaliser = torch.cat([negative, positive], dim=1).logsumexp(dim=1)
    return (normaliser - positive[:, 0]).mean()


class UserEncoder(nn.Module):
    """Causal Transformer over item vectors: learned positions added, a LayerNorm, then post-norm blocks.

    Args:
        width: d, the size of item and user vectors.
        positions: maximum input length; sequences are left-padded, so the newest input is at the last position.
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
            items: item vectors, (n, positions, width); any finite values at padding.
            real: (n, positions) bool, False at padding.

        Returns:
            (n, positions, width); values at padding are meaningless.
        """
        # A padded query may attend to itself; otherwise its softmax would have no terms and give NaN.
        allowed = self.causal & (real[:, None, None, :] | self.diagonal)
        x = F.dropout(self.norm(items + self.positions), self.dropout, self.training)
        for block in self.blocks:
            x = block(x, allowed)
        return x


class Block(nn.Module):
    """Post-norm Transformer block: self-attention without biases, then a ReLU MLP with four times the width inside."""

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
        """States after the block, (n, length, width).

        Args:
            x: states before it, of the same shape.
            allowed: (n, 1, length, length) bool, True where a query may attend to a key.
        """
        x = self.norm1(x + F.dropout(self._attend(x, allowed), self.dropout, self.training))
        inner = self.outer(F.relu(self.inner(x)))
        return self.norm2(x + F.dropout(inner, self.dropout, self.training))
