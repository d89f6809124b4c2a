"""Trainable parameters with BERT-base and ViT-base/16, d = 64, against the published formulas; no weights needed."""

import pytest
import torch

from bench.models.backbones import locate
from bench.models.encoders import Encoder
from bench.models.recommender import UserEncoder
from methods.base import EncoderMethod, HiddenMethod, Shape, method_class
from methods.registry import REGISTRY

EXPECTED = {
    "iisan": 4_113_877,
    "iisan-cached": 4_113_877,
    "adapter": 4_965_440,
    "lora": 796_736,
    "prefix": 796_736,
    "bitfit": 411_968,
    "frozen": 206_912,
    "fft": 194_897_216,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_trainable_parameters(name: str) -> None:
    entry = REGISTRY[name]
    method = method_class(name)(**entry.preset)
    with torch.device("meta"):
        user = UserEncoder()
        if isinstance(method, EncoderMethod):
            sources = {"text": locate("bert-base", "text", "random"), "image": locate("vit-base", "image", "random")}
            items = method.build({m: Encoder.from_source(s) for m, s in sources.items()}, 64)
        else:
            assert isinstance(method, HiddenMethod)
            items = method.build(torch.nn.Identity(), {m: Shape(768, 12) for m in ("text", "image")}, 64)
    trained = sum(group.count for group in items.groups) + sum(p.numel() for p in user.parameters())
    assert trained == EXPECTED[name]
    # The groups and the gradient flags must tell the same story.
    assert sum(p.numel() for p in [*items.parameters(), *user.parameters()] if p.requires_grad) == EXPECTED[name]
    assert all(count > 0 for count in items.adapted.values())
