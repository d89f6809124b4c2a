"""Ladder Side Tuning on [CLS] states (after Sung, Cho & Bansal, NeurIPS 2022, arXiv 2206.06522).

As in the paper: a narrow side network beside each frozen backbone; before each of its blocks the backbone's state of
that layer, projected down, is mixed in by a learned gate sigmoid(theta / 0.1); no gradient enters the backbone.

Not as in the paper: there the ladder's blocks are narrow Transformer layers over all tokens, start from pruned weights
of the backbone, and are projected up again for the model's own head. Here one vector per layer climbs, so that there
is nothing to attend to and a block is the Transformer layer's other half, a pre-norm MLP; it starts at random, and the
recommender's head reads the ladder at its own width.
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
    """Mixes a layer's state into what climbs, and goes on with x + outer(gelu(inner(norm(x))))."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.theta = nn.Parameter(torch.zeros(1))
        self.norm = nn.LayerNorm(bottleneck)
        self.inner = nn.Linear(bottleneck, 4 * bottleneck)
        self.outer = nn.Linear(4 * bottleneck, bottleneck)

    def forward(self, h: Tensor, state: Tensor) -> Tensor:
        """h (n, bottleneck) and the layer's state (n, width) to (n, bottleneck)."""
        g = torch.sigmoid(self.theta / GATE_TEMPERATURE)
        x = g * self.down(state) + (1 - g) * h
        return x + self.outer(F.gelu(self.inner(self.norm(x))))


class Ladder(nn.Module):
    """One backbone's side network: the lowest state projected down, then a rung per further layer."""

    def __init__(self, layers: int, width: int, bottleneck: int):
        super().__init__()
        self.foot = nn.Linear(width, bottleneck)
        self.rungs = nn.ModuleList([Rung(width, bottleneck) for _ in range(layers - 1)])
        self.norm = nn.LayerNorm(bottleneck)

    def forward(self, states: Tensor) -> Tensor:
        """(n, layers, width) to (n, bottleneck)."""
        h = self.foot(states[:, 0])
        for layer, rung in enumerate(self.rungs, start=1):
            h = rung(h, states[:, layer])
        return self.norm(h)


class Ladders(nn.Module):
    """A ladder per modality, and the head."""

    def __init__(self, layers: Mapping[str, int], shapes: Mapping[str, Shape], bottleneck: int, d: int):
        super().__init__()
        self.ladders = nn.ModuleDict({m: Ladder(layers[m], shape.width, bottleneck) for m, shape in shapes.items()})
        self.head = Head(dict.fromkeys(shapes, bottleneck), d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """modality -> (n, layers, width) to (n, d)."""
        return self.head({m: ladder(states[m]) for m, ladder in self.ladders.items()})


@dataclass(frozen=True)
class LST(HiddenMethod):
    """Options of Ladder Side Tuning.

    Attributes:
        layers: which layers have a rung; the first of them is where the ladder stands.
        bottleneck: width of the ladder.
        lr: of the ladders.
    """

    layers: Layers = "all"
    bottleneck: Count = 32
    lr: float = 1e-3

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """As the option says."""
        return chosen_layers(self.layers, shape)

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Ladders and head."""
        return Ladders({m: len(self.kept(shape)) for m, shape in shapes.items()}, shapes, self.bottleneck, d)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """The ladders, and the head."""
        assert isinstance(network, Ladders)
        return (
            Group("ladder", self.lr, tuple(network.ladders.parameters())),
            Group("head", self.lr_head, tuple(network.head.parameters())),
        )
