"""Frozen encoders, the lower bound of fine-tuning: only the head and the user encoder train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from methods.base import OUTPUT, Group, Head, HiddenMethod, Shape


@dataclass(frozen=True)
class Frozen(HiddenMethod):
    """Frozen encoders: the head reads the encoders' output, the same vector that full fine-tuning starts from."""

    def kept(self, shape: Shape) -> tuple[int, ...]:
        """The encoder's own output."""
        return (OUTPUT,)

    def network(self, shapes: Mapping[str, Shape], d: int) -> nn.Module:
        """Standard head."""
        return Head({modality: shape.width for modality, shape in shapes.items()}, d)

    def split(self, network: nn.Module) -> tuple[Group, ...]:
        """One group, the head."""
        return (Group("head", self.lr_head, tuple(network.parameters())),)
