"""Prefix tuning: trained keys and values precede those of the tokens in every layer (Li & Liang, ACL 2021).

peft passes the prefix as ``past_key_values``, which ViT accepts and ignores. Here peft's ``PrefixEncoder`` holds the
parameters, and an attention function registered with transformers puts them in front of keys and values, in BERT and
ViT alike. The positions of the real tokens do not shift, and the prefix has no positions (no rotary embedding). The
method needs encoders that call transformers' attention interface with the same heads in every layer; layers that share
weights (ALBERT) share their prefix.
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
    """Trained keys and values of all layers, (positions, layers, 2, heads, head width)."""

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
        # True (boolean mask) and 0 (additive mask) both allow attention.
        mask = F.pad(mask, (positions, 0), value=1 if mask.dtype == torch.bool else 0)
    elif causal:
        # transformers omits a causal mask if there is no padding, and relies on is_causal of the kernel.
        length = query.shape[2]
        mask = torch.ones(length, positions + length, dtype=torch.bool, device=query.device).tril(positions)
    key, value = torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)
    # Llama and similar models have fewer heads of keys than of queries.
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
    """Prefix tuning of an encoder.

    Attributes:
        positions: length of the prefix in every layer.
        spread: standard deviation of the initial keys and values; that of peft, 1, overwhelms the pretrained attention
            of a narrow encoder.
        lr: learning rate of the prefixes.
    """

    positions: Count = 16
    spread: float = 0.02
    lr: float = 4e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Give every attention module its prefix, and switch the encoder to the prefix attention function.

        Raises:
            UserError: the encoder's attention cannot take a prefix.
        """
        from peft import PrefixTuningConfig

        model: Any = encoder.model
        _check_supported(model)
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
            # In a tuple, because a submodule would be registered, and counted, once per layer.
            module.prefix = (holder, index)
        base = model.config._attn_implementation
        model.config._attn_implementation = f"prefix-{base if base in ATTENTION else 'sdpa'}"
        return Adaptation(holder.parameters(), self.lr, len(modules))


def _check_supported(model: Any) -> None:
    name = type(model).__name__
    if families.is_hierarchical(model.config):
        raise UserError(f"prefix: the layers of {name} differ in width and heads")
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(f"prefix: {name} has attention code of its own, which takes no prefix")


def _heads(config: Any) -> tuple[int, int]:
    """Number of heads of keys and values, and the width of a head."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads, width
