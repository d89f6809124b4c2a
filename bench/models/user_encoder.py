"""The sequential user encoder: a small causal Transformer over item vectors (IISAN, section 3; SASRec-like)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
