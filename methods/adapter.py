"""Bottleneck adapters after the output maps of attention and MLP in every layer (Houlsby et al., ICML 2019).

Layers without attention (ConvNeXt) have only the adapter after the MLP.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.structure import LinearMap, has_attention, linears, replace, sizes
from methods.base import Adaptation, Count, Encoder, EncoderMethod


class Adapted(nn.Module):
    """Frozen linear map followed by the adapter y + up(gelu(down(y))), the identity at first as up starts at zero."""

    def __init__(self, base: LinearMap, bottleneck: int):
        super().__init__()
        self.base = base
        device = base.weight.device
        width = sizes(base)[1]
        self.down = nn.Linear(width, bottleneck, device=device)
        self.up = nn.Linear(bottleneck, width, device=device)
        nn.init.normal_(self.down.weight, std=0.02)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    @property
    def weight(self) -> Tensor:
        """Weight of the wrapped map: T5 reads the dtype of a map's weight before calling the map."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """Adapted output, (..., width), before the layer's residual sum."""
        y = self.base(x)
        return y + self.up(F.gelu(self.down(y)))


@dataclass(frozen=True)
class Adapter(EncoderMethod):
    """Two bottleneck adapters per layer.

    Attributes:
        bottleneck: inner width of an adapter.
        lr: learning rate of the adapters.
    """

    bottleneck: Count = 64
    lr: float = 1e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Wrap the output maps of attention and MLP in every layer."""
        targets = linears(encoder.model, "mlp_output")
        if has_attention(encoder.model):
            targets = linears(encoder.model, "attention_output") | targets
        parameters: list[nn.Parameter] = []
        for name, base in targets.items():
            adapted = Adapted(base, self.bottleneck)
            replace(encoder.model, name, adapted)
            parameters += [*adapted.down.parameters(), *adapted.up.parameters()]
        return Adaptation(parameters, self.lr, len(targets))
