"""Prefix tuning: trained keys and values stand before every layer's own (Li & Liang, ACL 2021).

peft's own wiring passes the prefix as ``past_key_values``, which ViT takes and ignores. Here peft's
``PrefixEncoder`` holds the parameters, and an attention function registered with transformers puts them in front
of keys and values, in BERT and ViT alike. Positions of the real tokens do not shift, and the prefix has none (no
rotary turn). It fits encoders that call transformers' attention interface with the same heads in every layer; where
layers share their weights (ALBERT), they share their prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask, sdpa_mask

from bench.models import families
from bench.models.structure import attentions
from bench.utils.errors import UserError
from methods.base import Adaptation, Count, Encoder, EncoderMethod


class Prefixes(nn.Module):
    """The keys and values of all layers, (positions, layers, 2, heads, head width)."""

    def __init__(self, config: Any, device: torch.device):
        super().__init__()
        from peft import PrefixEncoder

        self.encoder = PrefixEncoder(config).to(device)
        self.shape = (
            config.num_virtual_tokens,
            config.num_layers,
            2,
            config.num_attention_heads,
            config.token_dim // config.num_attention_heads,
        )

    def layer(self, index: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer for a batch, each (n, heads, positions, head width)."""
        weight = self.encoder.embedding.weight.view(self.shape)[:, index].to(like.dtype)
        keys, values = weight.permute(1, 2, 0, 3).unbind(0)
        n = like.shape[0]
        return keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1)


def _with_prefix(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys, values and mask with the prefix in front; as many heads of keys as of queries."""
    holder, index = module.prefix
    causal = getattr(module, "is_causal", False) if causal is None else causal
    before_key, before_value = holder.layer(index, key)
    positions = before_key.shape[2]
    if mask is not None:
        # True (bool mask) and 0 (additive mask) both mean: may be looked at.
        mask = F.pad(mask, (positions, 0), value=1 if mask.dtype == torch.bool else 0)
    elif causal:
        # transformers leaves out a causal mask that hides no padding and expects the kernel to know.
        length = query.shape[2]
        mask = torch.ones(length, positions + length, dtype=torch.bool, device=query.device).tril(positions)
    key, value = torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)
    # Llama and its kin have fewer heads of keys than of queries.
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return key, value, mask


def _prefix_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    key, value, mask = _with_prefix(module, query, key, value, attention_mask, is_causal)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
    return out.transpose(1, 2).contiguous(), None


def _prefix_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    key, value, mask = _with_prefix(module, query, key, value, attention_mask, False)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    masked = scores if mask is None else scores + mask
    # In 32 bit, as transformers' own eager attention does and CUDA's autocast would: CPU and GPU then agree.
    weights = F.dropout(masked.softmax(dim=-1, dtype=torch.float32).to(query.dtype), dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


ATTENTION = {"sdpa": (_prefix_sdpa, sdpa_mask), "eager": (_prefix_eager, eager_mask)}
for _base, (_function, _mask) in ATTENTION.items():
    AttentionInterface.register(f"prefix-{_base}", _function)
    AttentionMaskInterface.register(f"prefix-{_base}", _mask)


@dataclass(frozen=True)
class Prefix(EncoderMethod):
    """Prefixes in both encoders.

    Attributes:
        positions: prefix length per layer.
        spread: standard deviation of the initial keys and values. peft's own start, N(0, 1), drowns the
            pretrained attention of a narrow encoder.
    """

    positions: Count = 16
    spread: float = 0.02
    lr: float = 4e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Gives every attention module its prefix and switches the encoder to the prefix attention function.

        Raises:
            UserError: for encoders whose attention cannot be given one.
        """
        from peft import PrefixTuningConfig

        model: Any = encoder.model
        _refuse(model)
        modules: list[Any] = attentions(model)
        heads, head_width = _heads(model.config)
        config = PrefixTuningConfig(
            num_virtual_tokens=self.positions,
            num_layers=len(modules),
            token_dim=heads * head_width,
            num_attention_heads=heads,
        )
        holder = Prefixes(config, next(model.parameters()).device)
        nn.init.normal_(holder.encoder.embedding.weight, std=self.spread)
        encoder.add_module("prefixes", holder)
        for index, module in enumerate(modules):
            # A tuple, not an attribute of its own: as a submodule it would be counted once per layer.
            module.prefix = (holder, index)
        base = model.config._attn_implementation
        model.config._attn_implementation = f"prefix-{base if base in ATTENTION else 'sdpa'}"
        return Adaptation(holder.parameters(), self.lr, len(modules))


def _refuse(model: Any) -> None:
    name = type(model).__name__
    if families.is_hierarchical(model.config):
        raise UserError(f"prefix: the layers of {name} differ in width and heads")
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(f"prefix: {name} computes its attention itself, keys cannot be put in front of it")


def _heads(config: Any) -> tuple[int, int]:
    """Heads of keys and values, and the width of one."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, width
