"""Linear probe over all layers: a learned mixture of the layers' [CLS] states, then the standard head.

The mixture is that of ELMo (Peters et al., NAACL 2018) without its scale, which the head's linear map can learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods.base import Group, Head, HiddenMethod, Layers, Shape, chosen_layers


class Mixture(nn.Module):
    """Softmax-weighted sum of the layers' states per modality, with equal weights at the start, then the head."""

    def __init__(self, kept: Mapping[str, int], widths: Mapping[str, int], d: int):
        super().__init__()
        self.theta = nn.ParameterDict({modality: torch.zeros(n) for modality, n in kept.items()})
        self.head = Head(widths, d)

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        """Item vectors, (n, d), from states by modality, each (n, layers, width)."""
        return self.head({m: theta.softmax(0) @ states[m] for m, theta in self.theta.items()})


@dataclass(frozen=True)
class LinearProbe(HiddenMethod):
    """Linear probe on a mixture of layers.

    Attributes:
        layers: layers that are mixed.
        lr: learning rate of the mixture's weights.
    """

    layers: Layers = "all"
    lr: float = 1e-2

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """Layers that the option ``layers`` selects."""
        return chosen_layers(self.layers, shape)

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Mixture and standard head."""
        kept = {modality: len(self.kept(shape)) for modality, shape in shapes.items()}
        return Mixture(kept, {modality: shape.width for modality, shape in shapes.items()}, d)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """Two groups: the mixture's weights, and the head."""
        assert isinstance(network, Mixture)
        return (
            Group("mixture", self.lr, tuple(network.theta.parameters())),
            Group("head", self.lr_head, tuple(network.head.parameters())),
        )
