"""Model families: exceptions by transformers' model type, and sizes read from a configuration.

Everything else about a family is found from its modules, in ``bench.models.structure``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Pooling = Literal["auto", "cls", "mean", "last-token"]

# Classes for model types that AutoModel does not know, or for which it adds a decoder to the encoder.
CLASSES = {
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# Encoders whose tokenizers put no [CLS] in front.
WITHOUT_CLS = ("t5", "mt5", "umt5")
# Encoders whose sentence vector is the state of the last token: CLIP's end of text, SigLIP's last position.
LAST_TOKEN = ("clip_text_model", "siglip_text_model")
# Encoders trained on text padded to all positions, without a mask that hides the padding.
ALWAYS_PADDED = ("siglip_text_model",)
# Encoders whose position numbers start after the padding token's id, so that the first ones are never used.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text")
# Encoders that take images of any size; the preprocessor's file has the size that the checkpoint is meant for.
ANY_SIZE = ("dinov2", "dinov2_with_registers", "dinov3_vit", "swin", "swinv2", "convnext", "convnextv2")
# Dotted name of a norm that is applied to the pooled vector only, not to the tokens of the last hidden state.
POOLED_NORM = {"clip_vision_model": "post_layernorm", "convnext": "layernorm", "convnextv2": "layernorm"}
# Names of linear maps inside an attention that are neither query, key, value nor output.
NO_PROJECTIONS = ("pos_key_proj", "pos_query_proj", "pos_proj", "pos_q_proj")


def tower_config(config: PretrainedConfig, modality: str) -> PretrainedConfig:
    """Configuration of the encoder of a modality: that of its tower if the model has two (CLIP, SigLIP)."""
    inner = getattr(config, "text_config" if modality == "text" else "vision_config", None)
    return config if inner is None else inner


def is_hierarchical(config: PretrainedConfig) -> bool:
    """True if the layers come in stages of different widths (Swin, ConvNeXt)."""
    return getattr(config, "depths", None) is not None


def depth(config: PretrainedConfig) -> int:
    """Number of layers that run in a forward pass; layers that share weights (ALBERT) count once per run."""
    if is_hierarchical(config):
        return sum(config.depths)
    return int(config.num_hidden_layers) * int(getattr(config, "inner_group_num", 1))


def widths(config: PretrainedConfig) -> tuple[int, ...]:
    """Size of a token's state after layers 0 (the embeddings) to depth; depth + 1 values."""
    if not is_hierarchical(config):
        return (int(config.hidden_size),) * (depth(config) + 1)
    sizes = getattr(config, "hidden_sizes", None) or [
        config.embed_dim * 2**stage for stage in range(len(config.depths))
    ]
    stages = [size for size, layers in zip(sizes, config.depths, strict=True) for _ in range(layers)]
    return (sizes[0], *stages)


def is_decoder(config: PretrainedConfig) -> bool:
    """True if a token attends only to earlier tokens: transformers has a causal and no masked language model of it."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.model_type
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def positions(config: PretrainedConfig) -> int | None:
    """Maximum number of tokens that a text encoder takes; None if its configuration sets no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or limit < 1:
        return None
    return int(limit) - (int(config.pad_token_id) + 1 if config.model_type in OFFSET_POSITIONS else 0)
