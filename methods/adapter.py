"""Bottleneck adapters after the attention's and the MLP's output map of every layer (Houlsby et al., ICML 2019).

Layers without attention (ConvNeXt) have the second one alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.structure import LinearMap, has_attention, linears, replace, sizes
from methods.base import Adaptation, Count, Encoder, EncoderMethod


class Adapted(nn.Module):
    """A frozen linear map followed by x + up(gelu(down(x))); the identity at the start, up being zero."""

    def __init__(self, base: LinearMap, bottleneck: int):
        super().__init__()
        self.base = base
        device = base.weight.device
        width = sizes(base)[1]
        self.down = nn.Linear(width, bottleneck, device=device)
        self.up = nn.Linear(bottleneck, width, device=device)
        nn.init.normal_(self.down.weight, std=0.02)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    @property
    def weight(self) -> Tensor:
        """Of the map inside: T5 asks its maps for their type before it calls them."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        """The adapted output, before the layer's residual sum."""
        y = self.base(x)
        return y + self.up(F.gelu(self.down(y)))


@dataclass(frozen=True)
class Adapter(EncoderMethod):
    """Two adapters per layer.

    Attributes:
        bottleneck: inner width.
    """

    bottleneck: Count = 64
    lr: float = 1e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Wraps the output maps of attention and MLP."""
        targets = linears(encoder.model, "mlp_output")
        if has_attention(encoder.model):
            targets = linears(encoder.model, "attention_output") | targets
        parameters: list[nn.Parameter] = []
        for name, base in targets.items():
            adapted = Adapted(base, self.bottleneck)
            replace(encoder.model, name, adapted)
            parameters += [*adapted.down.parameters(), *adapted.up.parameters()]
        return Adaptation(parameters, self.lr, len(targets))
