"""From the tokens of an item to one vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bench.models import families
from bench.models.families import Pooling
from bench.utils.errors import UserError

# What image encoders call the token that stands for the whole picture.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


def choose(pooling: Pooling, modality: str, model: Any, option: str) -> Pooling:
    """What "auto" stands for.

    ``cls`` where the first token was trained to stand for the whole (BERT, ViT), ``last-token`` for decoders and
    for the text towers of CLIP and SigLIP, ``mean`` where there is no such token (Swin, ConvNeXt, SigLIP's vision
    tower, T5) or where the configuration asks for it (BEiT).

    Raises:
        UserError: a pooling that this encoder cannot have, naming ``option``.
    """
    config, name = model.config, type(model).__name__
    if modality == "image":
        has_class = any(key.rpartition(".")[2] in CLASS_TOKENS for key, _ in model.named_parameters())
        if pooling == "auto":
            return "cls" if has_class and not getattr(config, "use_mean_pooling", False) else "mean"
        if pooling == "last-token" or (pooling == "cls" and not has_class):
            raise UserError(f"{option} {pooling}: {name} has no such token; use mean")
        return pooling
    if pooling == "auto":
        if families.is_decoder(config) or config.model_type in families.LAST_TOKEN:
            return "last-token"
        return "mean" if config.model_type in families.WITHOUT_CLS else "cls"
    if pooling == "cls" and families.is_decoder(config):
        raise UserError(f"{option} cls: the first token of {name} sees none of the others; use last-token or mean")
    return pooling


def class_tokens(model: nn.Module) -> int:
    """Tokens in front of those of a picture's patches: class, distillation and register tokens."""
    names = [key.rpartition(".")[2] for key, _ in model.named_parameters()]
    count = sum(name in (*CLASS_TOKENS, "distillation_token") for name in names)
    return count + int(getattr(model.config, "num_register_tokens", 0) or 0)


def pool(states: Tensor, pooling: Pooling, mask: Tensor | None, skip: int) -> Tensor:
    """One vector per item, (n, width).

    Args:
        states: (n, tokens, width), or (n, width, height, width in tokens) as convolutions give it.
        mask: (n, tokens), 1 at real tokens, which stand on the left; None for pictures.
        skip: tokens in front that a mean leaves out.
    """
    if states.ndim == 4:
        states = states.flatten(2).transpose(1, 2)
    if pooling == "cls":
        return states[:, 0]
    if mask is None:
        return states[:, skip:].mean(1)
    if pooling == "last-token":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weights = mask.to(states.dtype)[:, :, None]
    return (states * weights).sum(1) / weights.sum(1)
