"""Ladder Side Tuning on [CLS] states (after Sung, Cho & Bansal, NeurIPS 2022, arXiv 2206.06522).

As in the paper, each frozen backbone has a narrow side network; before each of its blocks the backbone's state of that
layer is projected down and mixed in by a learned gate sigmoid(theta / 0.1). No gradient enters the backbone.

Unlike in the paper, a ladder processes one vector per layer and not all tokens. Without tokens to attend to, a block is
only the MLP half of a Transformer layer, pre-norm. Blocks start from random weights, not from pruned ones of the
backbone, and the recommender's head reads the ladder at its own width instead of a projection back to the backbone's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.base import Count, Group, Head, HiddenMethod, Layers, Shape, chosen_layers

GATE_TEMPERATURE = 0.1


class Rung(nn.Module):
    """Block of a ladder: mixes a layer's state into the input by a gate, then x + outer(gelu(inner(norm(x))))."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.theta = nn.Parameter(torch.zeros(1))
        self.norm = nn.LayerNorm(bottleneck)
        self.inner = nn.Linear(bottleneck, 4 * bottleneck)
        self.outer = nn.Linear(4 * bottleneck, bottleneck)

    def forward(self, h: Tensor, state: Tensor) -> Tensor:
        """Output of the block, (n, bottleneck), from h, (n, bottleneck), and the layer's state, (n, width)."""
        g = torch.sigmoid(self.theta / GATE_TEMPERATURE)
        x = g * self.down(state) + (1 - g) * h
        return x + self.outer(F.gelu(self.inner(self.norm(x))))


class Ladder(nn.Module):
    """Side network of one backbone: the first state projected down, then a rung per further layer."""

    def __init__(self, layers: int, width: int, bottleneck: int):
        super().__init__()
        self.foot = nn.Linear(width, bottleneck)
        self.rungs = nn.ModuleList([Rung(width, bottleneck) for _ in range(layers - 1)])
        self.norm = nn.LayerNorm(bottleneck)

    def forward(self, states: Tensor) -> Tensor:
        """Vector of the ladder, (n, bottleneck), from states, (n, layers, width)."""
        h = self.foot(states[:, 0])
        for layer, rung in enumerate(self.rungs, start=1):
            h = rung(h, states[:, layer])
        return self.norm(h)


class Ladders(nn.Module):
    """One ladder per modality, and the head."""

    def __init__(self, layers: Mapping[str, int], shapes: Mapping[str, Shape], bottleneck: int, d: int):
        super().__init__()
        self.ladders = nn.ModuleDict({m: Ladder(layers[m], shape.width, bottleneck) for m, shape in shapes.items()})
        self.head = Head(dict.fromkeys(shapes, bottleneck), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """Item vectors, (n, d), from states by modality, each (n, layers, width)."""
        return self.head({m: ladder(states[m]) for m, ladder in self.ladders.items()})


@dataclass(frozen=True)
class LST(HiddenMethod):
    """Ladder Side Tuning on hidden states.

    Attributes:
        layers: layers that a ladder reads; the first one gives its start, each other one has a rung.
        bottleneck: width of the ladder.
        lr: learning rate of the ladders.
    """

    layers: Layers = "all"
    bottleneck: Count = 32
    lr: float = 1e-3

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layers that the option ``layers`` selects."""
        return chosen_layers(self.layers, shape)

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Ladders and standard head."""
        return Ladders({m: len(self.kept(shape)) for m, shape in shapes.items()}, shapes, self.bottleneck, d)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Two groups: the ladders, and the head."""
        assert isinstance(network, Ladders)
        return (
            Group("ladder", self.lr, tuple(network.ladders.parameters())),
            Group("head", self.lr_head, tuple(network.head.parameters())),
        )
