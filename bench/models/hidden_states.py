"""Hidden states of frozen backbones: computed live, or gathered from the cache on disk."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.models.encoders import Encoder, Inputs

# Item-input key of cached hidden states, by modality.
HIDDEN_KEY = "hidden_{}"


class LiveHiddenStates(nn.Module):
    """Runs frozen encoders in eval mode and without a gradient graph, so a live run equals a cached one."""

    def __init__(self, encoders: Mapping[str, Encoder], kept: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.kept = dict(kept)
        self.encoders.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LiveHiddenStates:
        """Follows the recommender's mode, the encoders excepted: dropout stays off in them."""
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """modality -> (n, kept layers, width)."""
        return {m: encoder.hidden_states(inputs, self.kept[m]) for m, encoder in self.encoders.items()}  # type: ignore[operator]


class CachedHiddenStates(nn.Module):
    """Takes the states that the item feed gathered from the cache; 16 bit on the way, 32 bit here."""

    def __init__(self, modalities: tuple[str, ...]):
        super().__init__()
        self.modalities = modalities

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """modality -> (n, kept layers, width) in 32 bit."""
        return {m: inputs[HIDDEN_KEY.format(m)].float() for m in self.modalities}
