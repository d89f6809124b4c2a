"""Folders of models whose configuration is damaged or made up."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.models.backbones import locate
from tests.fuzz.harness import answered, cases
from tests.fuzz.hostile import changed, mutated, texts


@pytest.fixture(scope="module")
def folders(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of a text and an image encoder, to be spoilt."""
    base = tmp_path_factory.mktemp("spoilt")
    made = {kind: base / kind for kind in ("text", "image")}
    for family, folder in zip(("bert", "vit"), made.values(), strict=True):
        shutil.copytree(model_folders[family], folder)
    facts = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}
    (made["image"] / "preprocessor_config.json").write_text(json.dumps(facts))
    return made


@given(data=st.data(), kind=st.sampled_from(["text", "image"]), whole=st.booleans())
@cases("model configurations")
def test_configurations_are_read_or_named(
    folders: dict[str, Path], data: st.DataObject, kind: str, whole: bool
) -> None:
    files = sorted(path for path in folders[kind].glob("*config.json") if "tokenizer" not in path.name)
    path = data.draw(st.sampled_from(files))
    sound = path.read_bytes()
    path.write_bytes(data.draw(mutated(sound)) if whole else json.dumps(data.draw(changed(json.loads(sound)))).encode())
    try:
        source = answered(lambda: locate(str(folders[kind]), kind), f"--{kind}-model {folders[kind]}")  # type: ignore[arg-type]
        if source is not None:
            assert source.modality == kind
            assert (source.preprocessing.image_size is None) == (kind == "text")
    finally:
        path.write_bytes(sound)


@given(name=texts.filter(lambda name: not os.path.isdir(name)), kind=st.sampled_from(["text", "image"]))
@cases("model names")
def test_names_of_models_are_refused(name: str, kind: str) -> None:
    assert answered(lambda: locate(name, kind), f"--{kind}-model") is None  # type: ignore[arg-type]
