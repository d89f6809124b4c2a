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
    "siglip2_text_model": "Siglip2TextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
}
# Encoders whose tokenizers put no [CLS] in front.
WITHOUT_CLS = ("t5", "mt5", "umt5")
# Text towers whose attention is causal although they are no language models; pooled at the end of the text.
CAUSAL_TOWERS = (
    "clip_text_model", "metaclip_2_text_model", "owlvit_text_model", "owlv2_text_model", "groupvit_text_model",
    "clipseg_text_model", "xclip_text_model", "aimv2_text_model",
)  # fmt: skip
# Encoders trained on text padded to all positions, without a mask that hides the padding; pooled at the last position.
ALWAYS_PADDED = ("siglip_text_model", "siglip2_text_model")
# Encoders that see all tokens although transformers has only a causal language model of them, as XLNet, whose summary
# is the state of the last token, and BertGeneration, unless its configuration makes a decoder of it.
LAST_TOKEN = ("xlnet",)
SEE_ALL_TOKENS = (*LAST_TOKEN, "bert-generation")
# Encoders that hide some patches at random in every pass; their configuration's share of hidden patches is set to 0.
MASKING = ("vit_mae",)
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


def is_causal(config: PretrainedConfig) -> bool:
    """True if a token attends only to earlier tokens, by the switches of the configuration and else by the family.

    Switches: ``is_causal`` and ``use_bidirectional_attention`` of decoders (EmbeddingGemma), ``is_decoder`` and
    ``causal`` of encoders (BERT, XLM).
    """
    if getattr(config, "is_causal", None) is False:
        return False
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return False
    if config.model_type in CAUSAL_TOWERS:
        return True
    if is_decoder(config) and config.model_type not in SEE_ALL_TOKENS:
        return True
    return any(getattr(config, switch, False) is True for switch in ("is_decoder", "causal"))


def is_decoder(config: PretrainedConfig) -> bool:
    """True if transformers has a causal and no masked language model of the family: no token stands for a sentence."""
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
