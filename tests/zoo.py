"""Tiny random encoders of many families, made from configurations and saved as folders with a tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers as t
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, PretrainedConfig, PreTrainedTokenizerFast

from bench.data.shop import world
from bench.models import families

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
WORDS = [word for word in world.vocabulary() if not word.startswith("[")]
VOCABULARY = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
V = len(VOCABULARY)

SMALL = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {"vocab_size": V, "max_position_embeddings": 40, **SMALL}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
PICTURE = {"image_size": 32, "patch_size": 16}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
RELATIVE = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}


def configurations() -> dict[str, tuple[str, PretrainedConfig]]:
    """Family -> modality and configuration; a tower of two is named after its model."""
    vision = {k: v for k, v in SMALL.items() if k != "intermediate_size"} | PICTURE
    # Not 2: that number means an old checkpoint whose end of text is the highest token.
    clip = t.CLIPConfig(
        text_config={**TEXT, **ENDS, "eos_token_id": 3}, vision_config={**SMALL, **PICTURE}, projection_dim=16
    )
    siglip = t.SiglipConfig(text_config=TEXT | {"max_position_embeddings": 20}, vision_config={**SMALL, **PICTURE})
    return {
        "bert": ("text", t.BertConfig(**TEXT)),
        "roberta": ("text", t.RobertaConfig(**TEXT, pad_token_id=1)),
        "distilbert": ("text", t.DistilBertConfig(vocab_size=V, dim=24, hidden_dim=48, n_layers=3, n_heads=2)),
        "mpnet": ("text", t.MPNetConfig(**TEXT)),
        "deberta-v2": ("text", t.DebertaV2Config(**TEXT, **RELATIVE, conv_kernel_size=3, position_biased_input=False)),
        "modernbert": (
            "text",
            t.ModernBertConfig(
                **TEXT, **ENDS, cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2, local_attention=4
            ),
        ),
        "albert": ("text", t.AlbertConfig(**TEXT, embedding_size=16)),
        "electra": ("text", t.ElectraConfig(**TEXT, embedding_size=16)),
        "t5": ("text", t.T5Config(vocab_size=V, d_model=24, d_kv=12, d_ff=48, num_layers=3, num_heads=2)),
        "gpt2": ("text", t.GPT2Config(vocab_size=V, n_positions=40, n_embd=24, n_layer=3, n_head=2, **ENDS)),
        "llama": ("text", t.LlamaConfig(**TEXT, **GROUPED)),
        "qwen2": ("text", t.Qwen2Config(**TEXT, num_key_value_heads=1)),
        "qwen3": ("text", t.Qwen3Config(**TEXT, **GROUPED)),
        "clip-text": ("text", clip),
        "siglip-text": ("text", siglip),
        "vit": ("image", t.ViTConfig(**SMALL, **PICTURE)),
        "deit": ("image", t.DeiTConfig(**SMALL, **PICTURE)),
        "beit": (
            "image",
            t.BeitConfig(
                **SMALL, **PICTURE, use_relative_position_bias=True, use_mask_token=True, use_mean_pooling=False
            ),
        ),
        "dinov2": ("image", t.Dinov2Config(**vision, mlp_ratio=2)),
        "swin": (
            "image",
            t.SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 4], window_size=4),
        ),
        "convnext": ("image", t.ConvNextConfig(hidden_sizes=[16, 32], depths=[1, 2], num_stages=2, image_size=32)),
        "clip-vision": ("image", clip),
        "siglip-vision": ("image", siglip),
    }


def tokenizer(padded: bool, ended: bool) -> PreTrainedTokenizerFast:
    """A word per token. Without ``padded`` it has no padding token, without ``ended`` it adds nothing to a title."""
    words = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if ended:
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "bos_token": "[CLS]", "eos_token": "[SEP]"}
    if padded:
        names["pad_token"] = "[PAD]"
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **names)


def save(family: str, folder: Path) -> None:
    modality, config = configurations()[family]
    torch.manual_seed(0)
    cls = getattr(t, families.CLASSES.get(config.model_type, "AutoModel"))
    model = AutoModel.from_config(config) if cls is AutoModel else cls(config)
    for name, parameter in model.named_parameters():
        if "lambda" in name or "layer_scale" in name:
            torch.nn.init.ones_(parameter)  # they start near zero, where no layer would do anything
        elif name.endswith(("_token", "position_embeddings")) and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)  # a class token of zeros is no state that could be learned from
    model.save_pretrained(folder)
    if modality == "text":
        decoder = families.is_decoder(config)
        tokenizer(padded=not decoder, ended=not decoder).save_pretrained(folder)
