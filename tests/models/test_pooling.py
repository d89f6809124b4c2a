"""The pooling that a model means: by its folder, by its attention, by its family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t

from bench.models import families
from bench.models.backbones import locate
from bench.models.encoders import Encoder
from bench.models.loading.check_encoder import check_encoder
from bench.models.loading.describe import describe_all, pooling_of
from bench.utils.errors import UserError
from tests.helpers import text_inputs
from tests.models.sentence_folders import BERT_POOLING, sentence_folder
from tests.tiny import FamilyFolder
from tests.zoo import ENDS, GROUPED, PICTURE, SMALL, TEXT, V, tokenizer


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (BERT_POOLING, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last-token"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_auto_is_what_a_folder_of_sentence_transformers_says(
    said: dict[str, Any], expected: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = sentence_folder(model_folders["bert"], tmp_path / "st", said)
    e, x = Encoder.from_source(locate(str(folder), "text")), text_inputs()
    assert (e.pooling, e.choice.why) == (expected, "1_Pooling/config.json")
    with torch.no_grad():
        states = e.model(**x).last_hidden_state
        by_hand = [row[: int(m.sum())] for row, m in zip(states, x["attention_mask"], strict=True)]
        rows = {
            "mean": [r.mean(0) for r in by_hand],
            "cls": [r[0] for r in by_hand],
            "last-token": [r[-1] for r in by_hand],
        }
        assert torch.allclose(e(x), torch.stack(rows[expected]), atol=1e-6)
    assert Encoder.from_source(locate(str(folder), "text", pooling="cls")).pooling == "cls"


@pytest.mark.parametrize(
    "said",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {"pooling_mode_weightedmean_tokens": True},
        {},
    ],
)
def test_a_pooling_that_is_not_supported_is_not_replaced_in_silence(
    said: dict[str, Any], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = sentence_folder(model_folders["bert"], tmp_path / "st", said)
    with pytest.raises(UserError, match=r"1_Pooling/config\.json asks for the pooling .*; set text_pooling"):
        pooling_of(locate(str(folder), "text"))


def test_modules_that_are_not_applied_are_told(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = sentence_folder(model_folders["bert"], tmp_path / "st", BERT_POOLING, "Dense", "Normalize")
    assert pooling_of(locate(str(folder), "text")).why == "1_Pooling/config.json; 2_Dense not applied"


SIGLIP2 = t.Siglip2Config(
    text_config=TEXT | {"max_position_embeddings": 20}, vision_config={**SMALL, "patch_size": 16, "num_patches": 4}
)
CONFIGURATIONS: dict[str, tuple[t.PretrainedConfig, bool, str]] = {
    # Causal and no decoder by class; decoders that see all tokens; encoders that are switched to causal attention.
    "siglip2": (SIGLIP2, False, "last-token"),
    "clip": (
        t.CLIPConfig(text_config={**TEXT, **ENDS, "eos_token_id": 3}, vision_config={**SMALL, **PICTURE}),
        True,
        "last-token",
    ),
    "owlvit": (t.OwlViTConfig(text_config={**TEXT, **ENDS}, vision_config={**SMALL, **PICTURE}), True, "last-token"),
    "metaclip-2": (
        t.MetaClip2Config(text_config={**TEXT, **ENDS, "eos_token_id": 3}, vision_config={**SMALL, **PICTURE}),
        True,
        "last-token",
    ),
    "embedding-gemma": (t.Gemma3TextConfig(**TEXT, **GROUPED, use_bidirectional_attention=True), False, "mean"),
    "gemma3": (t.Gemma3TextConfig(**TEXT, **GROUPED), True, "last-token"),
    "llama-bidirectional": (t.LlamaConfig(**TEXT, **GROUPED, is_causal=False), False, "mean"),
    "bert-decoder": (t.BertConfig(**TEXT, is_decoder=True), True, "last-token"),
    "bert-generation": (t.BertGenerationConfig(**TEXT), False, "mean"),
    "xglm": (
        t.XGLMConfig(vocab_size=V, d_model=24, ffn_dim=48, num_layers=3, attention_heads=2, max_position_embeddings=40),
        True,
        "last-token",
    ),
    "opt": (
        t.OPTConfig(
            vocab_size=V, hidden_size=24, word_embed_proj_dim=24, ffn_dim=48, num_hidden_layers=3, num_attention_heads=2
        ),
        True,
        "last-token",
    ),
    "xlm": (t.XLMConfig(vocab_size=V, emb_dim=24, n_layers=3, n_heads=2, max_position_embeddings=40), False, "cls"),
}


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_auto_fits_the_attention(family: str, tmp_path: Path) -> None:
    """The table of families is held against the attention itself: ``check_encoder`` refuses what does not fit."""
    config, causal, expected = CONFIGURATIONS[family]
    config.save_pretrained(tmp_path)
    tokenizer(padded=True, ended=True).save_pretrained(tmp_path)
    source = locate(str(tmp_path), "text", "random")
    assert families.is_causal(source.config) is causal
    torch.manual_seed(0)
    e = Encoder.from_source(source)
    assert e.pooling == expected == pooling_of(source).pooling
    check_encoder(e, text_inputs())
    if causal:
        with pytest.raises(UserError, match=r"text_pooling cls: the first token of .* attends to no other token"):
            pooling_of(locate(str(tmp_path), "text", "random", "cls"))


def test_siglip2_is_padded_to_its_full_length(tmp_path: Path) -> None:
    SIGLIP2.save_pretrained(tmp_path)
    assert locate(str(tmp_path), "text", "random").preprocessing.pad_to == 20


def test_attention_that_is_not_what_the_family_says_is_refused(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    e = Encoder.from_source(locate(str(model_folders["bert"]), "text"))
    check_encoder(e, text_inputs())
    monkeypatch.setattr(families, "is_causal", lambda _: True)
    with pytest.raises(UserError, match=r"the attention of bert is not causal here, .*set text_pooling under"):
        check_encoder(e, text_inputs())
    e = Encoder.from_source(locate(str(model_folders["bert"]), "text", pooling="mean"))
    check_encoder(e, text_inputs())  # the user chose


def test_facts_for_the_report(model_folders: dict[str, Path], family_folder: FamilyFolder) -> None:
    sources = {
        "text": locate(str(family_folder("siglip-text")), "text"),
        "image": locate(str(model_folders["vit"]), "image"),
    }
    text, image = describe_all(sources)
    assert (text["pooling"], text["why"]) == (
        "last-token",
        "siglip_text_model is trained on text padded to its full length",
    )
    assert text["items"] == "padded to 20 tokens; case left to the tokenizer"
    assert (image["pooling"], image["why"]) == ("cls", "it has a class token")
    assert image["items"] == "resized (32 × 32, bilinear)"
    assert "lower-cased (option lower_case)" in describe_all(sources, lower_case=True)[0]["items"]
