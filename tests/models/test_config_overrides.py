"""Content of a model's folder that transformers acts on unasked: adapters, other weights, settings of config.json."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import run_bench
from bench.config.matrix import parse, to_toml
from bench.models.backbones import load_model, locate
from bench.models.encoders import Encoder
from bench.utils.errors import UserError
from tests.helpers import encoder, inputs
from tests.tiny import FamilyFolder, matrix

Folders = dict[str, Path]


def changed(folder: Path, to: Path, **keys: Any) -> Path:
    """A copy of a model's folder with other keys in its config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | keys))
    return to


def command(verb: str, model_folders: Folders, tmp_path: Path, text: Path) -> int:
    """Exit status of a command on a recipe with this text encoder and two methods."""
    methods = [{"name": "frozen"}, {"name": "lora"}]
    backbones = [{"text": str(text), "image": str(model_folders["vit"])}]
    recipe = matrix(model_folders, methods=methods, backbones=backbones, budget={"steps": 2, "batch_size": 16})
    (tmp_path / "m.toml").write_text(to_toml(parse(recipe, "t")))
    more = ["--out", str(tmp_path / "out")] if verb == "run" else []
    return run_bench.main([verb, "--config", str(tmp_path / "m.toml"), *more])


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_an_adapter_beside_the_weights_is_refused(weights: str, model_folders: Folders, tmp_path: Path) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert")
    config = LoraConfig(target_modules=["query"], init_lora_weights=False)
    get_peft_model(load_model(locate(str(folder), "text")), config).save_pretrained(folder)
    with pytest.raises(UserError, match=r"adapter_config\.json.*merge_and_unload"):
        locate(str(folder), "text", weights)


def test_an_adapter_of_another_library_is_refused(model_folders: Folders, tmp_path: Path) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert")
    (folder / "adapter_config.json").write_text('{"architecture": "houlsby"}')
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        locate(str(folder), "text")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds an adapter and no model"):
        locate(str(folder), "text")


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_adapter_is_refused_once_before_anything_runs(
    verb: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert")
    (folder / "adapter_config.json").write_text("{}")
    assert command(verb, model_folders, tmp_path, folder) == 2
    assert capsys.readouterr().err.count("adapter_config.json") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "weights are quantised"),
        ({"transformers_weights": "other.safetensors"}, "names another file of weights"),
        ({"fusion_config": {"x": 1}}, "fusion_config in config.json"),
    ],
)
def test_other_ways_of_loading_are_refused(
    keys: dict[str, Any], said: str, model_folders: Folders, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        locate(str(changed(model_folders["bert"], tmp_path / "bert", **keys)), "text")


def test_weights_are_those_of_model_safetensors(model_folders: Folders, tmp_path: Path) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert")
    shard = folder / "shard-00001-model-00001-of-00001.safetensors"
    shutil.copy(folder / "model.safetensors", shard)
    with pytest.raises(UserError, match="distributed checkpoint"):
        locate(str(folder), "text")
    shard.unlink()
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"both model\.safetensors and model\.safetensors\.index\.json"):
        locate(str(folder), "text")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(UserError, match=r"no model\.safetensors.*only consolidated\.safetensors"):
        locate(str(folder), "text")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # The text file that stands for a large file in a repository cloned without its large files.
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model-00001-of-00001.safetensors"}}'),
        ("model.safetensors.index.json", "[]"),
    ],
)
def test_weights_that_cannot_be_read_are_seen_before_anything_runs(
    name: str, content: str, model_folders: Folders, tmp_path: Path
) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    (folder / name).write_text(content)
    with pytest.raises(UserError, match="model") as caught:
        locate(str(folder), "text")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flex_attention"},
        {"_attn_implementation": "eager"},
        {"gradient_checkpointing": True},
        {"return_dict": False},
        {"output_attentions": True},
        {"output_hidden_states": True},
        {"chunk_size_feed_forward": 4},
        {"dtype": "float16"},
        {"experts_implementation": "grouped_mm"},
    ],
    ids=str,
)
def test_the_suite_chooses_how_a_model_computes(keys: dict[str, Any], model_folders: Folders, tmp_path: Path) -> None:
    folder, x = changed(model_folders["bert"], tmp_path / "bert", **keys), inputs("text")
    for weights in ("pretrained", "random"):
        torch.manual_seed(0)
        made = Encoder.from_source(locate(str(folder), "text", weights))
        torch.manual_seed(0)
        plain = Encoder.from_source(locate(str(model_folders["bert"]), "text", weights))
        model: Any = made.model
        assert model.config._attn_implementation == plain.model.config._attn_implementation == "sdpa"
        assert not any(getattr(module, "gradient_checkpointing", False) for module in made.modules())
        assert torch.equal(made(x), plain(x))
        out = model(input_ids=x["input_ids"])
        assert out.hidden_states is None
        assert out.attentions is None


def test_settings_of_a_tower_are_those_of_the_suite_too(family_folder: FamilyFolder, tmp_path: Path) -> None:
    plain = family_folder("clip-text")
    config = json.loads((plain / "config.json").read_text())
    towers = {k: config[k] | {"_attn_implementation": "flash_attention_2"} for k in ("text_config", "vision_config")}
    folder = changed(plain, tmp_path / "clip", **towers)
    for modality in ("text", "image"):
        assert torch.equal(encoder(folder, modality)(inputs(modality)), encoder(plain, modality)(inputs(modality)))


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_attention_that_is_not_installed_does_not_matter(verb: str, model_folders: Folders, tmp_path: Path) -> None:
    folder = changed(model_folders["bert"], tmp_path / "bert", _attn_implementation="flash_attention_2")
    assert command(verb, model_folders, tmp_path, folder) == 0
