"""What neither modules nor configuration tell: exceptions by transformers' model type, and what a configuration means.

Everything else about a family is found in its modules, see ``structure``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Pooling = Literal["auto", "cls", "mean", "last-token"]

# AutoModel has no entry for these, or gives a decoder with the encoder.
CLASSES = {
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# Encoders whose tokenizers set no [CLS] in front.
WITHOUT_CLS = ("t5", "mt5", "umt5")
# Encoders whose sentence vector is that of the last token: CLIP's end of text, SigLIP's last position.
LAST_TOKEN = ("clip_text_model", "siglip_text_model")
# Trained on titles padded to all positions, and without a mask that hides the padding.
ALWAYS_PADDED = ("siglip_text_model",)
# Positions are counted from behind the padding token's number.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text")
# Take pictures of any size: the preprocessor's size is the one that the checkpoint was meant to be used with.
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "swin", "swinv2", "convnext", "convnextv2")
# The norm that only the pooled vector passes; the tokens of the last hidden state have not.
POOLED_NORM = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}
# Linear maps inside an attention that are neither projections nor output.
NO_PROJECTIONS = ("pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj")


def part(config: PretrainedConfig, modality: str) -> PretrainedConfig:
    """The configuration of the modality's tower, where a model has two of them (CLIP, SigLIP)."""
    inner = getattr(config, "text_config" if modality == "text" else "vision_config", None)
    return config if inner is None else inner


def is_hierarchical(config: PretrainedConfig) -> bool:
    """Whether layers come in stages of their own widths (Swin, ConvNeXt)."""
    return getattr(config, "depths", None) is not None


def depth(config: PretrainedConfig) -> int:
    """How many layers run, one after the other; layers that share weights count each time (ALBERT)."""
    if is_hierarchical(config):
        return sum(config.depths)
    return int(config.num_hidden_layers) * int(getattr(config, "inner_group_num", 1))


def widths(config: PretrainedConfig) -> tuple[int, ...]:
    """Size of a token after layers 0 (the embeddings) to depth."""
    if not is_hierarchical(config):
        return (int(config.hidden_size),) * (depth(config) + 1)
    sizes = getattr(config, "hidden_sizes", None) or [
        config.embed_dim * 2**stage for stage in range(len(config.depths))
    ]
    stages = [size for size, layers in zip(sizes, config.depths, strict=True) for _ in range(layers)]
    return (sizes[0], *stages)


def is_decoder(config: PretrainedConfig) -> bool:
    """Whether a token sees those before it alone: a family that models language causally and never with masks."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def positions(config: PretrainedConfig) -> int | None:
    """Tokens that a text encoder can take; None where it has no limit of its own."""
    most = getattr(config, "max_position_embeddings", None)
    if most is None or most < 1:
        return None
    return int(most) - (int(config.pad_token_id) + 1 if config.model_type in OFFSET_POSITIONS else 0)
