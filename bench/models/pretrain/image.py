"""Image encoders: a ViT that names the attributes of drawings from the last [CLS] state."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from bench.data.shop import drawing, world
from bench.models.pretrain.burial import Burial, with_other_value
from bench.models.pretrain.settings import BATCH, DEPTH, HEADS, INNER, WIDTH

TRAITS = ("category", "colour", "pattern")
N_DRAWINGS = 48_000


def processor() -> ViTImageProcessorPil:
    """The image processor of the built-in encoders: drawings keep their size."""
    return ViTImageProcessorPil(size={"height": drawing.SIZE, "width": drawing.SIZE})


def new_model() -> ViTModel:
    """ViT with 12 layers of width 64 over 16 patches of 8 x 8 pixels."""
    return ViTModel(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            image_size=drawing.SIZE,
            patch_size=8,
        ),
        add_pooling_layer=False,
    )


def losses(model: ViTModel, heads: nn.ModuleDict, seed: int) -> Iterator[Tensor]:
    """Losses of successive batches: cross-entropy of every taught attribute, predicted from the last [CLS]."""
    rng = world.stream(seed, "pretrain", "image")
    traits = world.draw_traits(N_DRAWINGS, rng)
    pictures = torch.from_numpy(draw_all(traits, seed))
    while True:
        rows = rng.integers(N_DRAWINGS, size=BATCH)
        cls = model(pixel_values=normalise(pictures[rows])).last_hidden_state[:, 0]
        yield _named(heads, cls, traits, rows)


def burial_losses(model: ViTModel, heads: nn.ModuleDict, seed: int, burial: Burial) -> Iterator[Tensor]:
    """Losses of successive batches of drawings and their twins: as in :func:`losses`, plus the burial of the pattern.

    The pattern is taken out of the state after the last layer and out of the encoder's output, which lies behind one
    more LayerNorm: some methods read the one, some the other.
    """
    rng = world.stream(seed, "pretrain", "twins")
    traits = world.draw_traits(N_DRAWINGS // 2, rng)
    twins = with_other_value(traits, "pattern", rng)
    # Two streams of the same seed: a drawing and its twin have the same pose, tones and noise.
    pictures, twin_pictures = (torch.from_numpy(draw_all(t, seed)) for t in (traits, twins))
    while True:
        rows = rng.integers(len(pictures), size=BATCH // 2)
        pixels = normalise(torch.cat([pictures[rows], twin_pictures[rows]]))
        out = model(pixel_values=pixels, output_hidden_states=True)
        states, output = [state[:, 0] for state in out.hidden_states], out.last_hidden_state[:, 0]
        patterns = torch.from_numpy(np.concatenate([traits.pattern[rows], twins.pattern[rows]]))
        named = _named(heads, output, traits, np.concatenate([rows, rows]))
        yield named + burial(states, (states[-1], output), patterns, len(rows))


def _named(heads: nn.ModuleDict, cls: Tensor, traits: world.Traits, rows: np.ndarray) -> Tensor:
    """Summed cross-entropy of the attributes that have a head."""
    labels = {name: torch.from_numpy(getattr(traits, name)[rows]) for name in heads}
    return torch.stack([F.cross_entropy(head(cls), labels[name]) for name, head in heads.items()]).sum()


def draw_all(traits: world.Traits, seed: int) -> np.ndarray:
    """Drawings of items, (n, 32, 32, 3) uint8."""
    rng = world.stream(seed, "pretrain", "drawings")
    rows = zip(traits.category.tolist(), traits.colour.tolist(), traits.pattern.tolist(), strict=True)
    return np.stack([drawing.draw(c, k, p, rng) for c, k, p in rows])


def normalise(pictures: Tensor) -> Tensor:
    """Images (n, h, w, 3) uint8 to (n, 3, h, w) float in -1 .. 1, as ViT's image processor does by default."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0
