"""Encoders that are not supported: the reason in the message is true of the model."""

import json
from pathlib import Path

import pytest
import transformers as t

from bench.models.backbones import load_model, locate
from bench.utils.errors import UserError

STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
BATCH_NORM = "has batch normalisation"
CONFIGURATIONS = {
    "resnet": (t.ResNetConfig(**STAGES, layer_type="basic"), BATCH_NORM),
    "regnet": (t.RegNetConfig(**STAGES, groups_width=8), BATCH_NORM),
    "mobilenet_v2": (t.MobileNetV2Config(image_size=32), BATCH_NORM),
    "bit": (t.BitConfig(**STAGES, num_groups=4), "its configuration has no image_size"),
    "bert": (t.BertConfig(hidden_size=24, num_attention_heads=2), "is not an image encoder"),
}


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_the_reason_is_true(family: str, tmp_path: Path) -> None:
    config, reason = CONFIGURATIONS[family]
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"{family} .*{reason}"):
        locate(str(tmp_path), "image", "random")


def test_batch_normalisation_is_seen_where_sizes_are_known_too(tmp_path: Path) -> None:
    """Its statistics would move in every step, also in frozen layers, and no method would put them back."""
    t.ResNetConfig(**STAGES, layer_type="basic", image_size=32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=BATCH_NORM):
        load_model(locate(str(tmp_path), "image", "random"))


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"tag": "a1_in1k"}},
        {"architecture": "resnet18", "num_classes": 1, "model_type": "timm_wrapper", "label_names": ["a"]},
    ],
)
def test_models_of_timm_are_not_supported(config: dict[str, object], tmp_path: Path) -> None:
    """With and without timm: the second configuration can be read without the library."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="library timm is not supported"):
        locate(str(tmp_path), "image", "random")


def test_stages_are_not_taken_for_layers_that_run_repeatedly(tmp_path: Path) -> None:
    from bench.models.structure import layers

    t.PvtConfig(image_size=32).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no stack of 8 layers found"):
        layers(load_model(locate(str(tmp_path), "image", "random")))
