"""Encoders that a run cannot use are refused once, before the first cell."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers as t

import run_bench
from bench.config.matrix import parse, to_toml
from tests.tiny import FamilyFolder, matrix

Folders = dict[str, Path]


def run(model_folders: Folders, tmp_path: Path, **backbones: Any) -> int:
    pair = {"text": str(model_folders["bert"]), "image": str(model_folders["vit"]), **backbones}
    methods = [{"name": "frozen"}, {"name": "iisan-cached"}]
    recipe = matrix(model_folders, methods=methods, backbones=[pair], seeds=[0, 1])
    (tmp_path / "m.toml").write_text(to_toml(parse(recipe, "t")))
    return run_bench.main(["run", "--config", str(tmp_path / "m.toml"), "--out", str(tmp_path / "out")])


def test_an_encoder_without_layers_that_are_found(
    model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t.LevitConfig(image_size=32).save_pretrained(tmp_path / "levit")
    assert run(model_folders, tmp_path, image=str(tmp_path / "levit"), weights="random") == 2
    assert capsys.readouterr().err.count("levit is not supported") == 1
    assert not (tmp_path / "out").exists()


def test_a_pooling_that_the_encoder_has_not(
    model_folders: Folders, family_folder: FamilyFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model_folders, tmp_path, image=str(family_folder("swin")), image_pooling="cls") == 2
    assert capsys.readouterr().err.count("image_pooling cls: SwinModel has no class") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_configuration_that_no_model_can_be_built_from(
    verb: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folders["bert"], tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | {"hidden_act": "no_such_function"}))
    text = str(tmp_path / "bert")
    if verb == "run":
        assert run(model_folders, tmp_path, text=text) == 2
    else:
        assert run_bench.main(["plan", "--text-model", text, "--modality", "text", "--methods", "frozen"]) == 2
    assert capsys.readouterr().err.count("no_such_function") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 5}, "16 weights are not in the checkpoint"),
        ({"vocab_size": 400}, "weights in the checkpoint have other shapes than config.json says"),
    ],
)
def test_weights_that_do_not_fit_the_configuration(
    change: dict[str, int], said: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(model_folders["bert"], tmp_path / "bert")
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(config | change))
    assert run(model_folders, tmp_path, text=str(tmp_path / "bert")) == 2
    assert capsys.readouterr().err.count(said) == 1
    assert not (tmp_path / "out").exists()
