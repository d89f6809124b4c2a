import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.errors import UserError
from bench.models.backbones import BUILTIN_DIR, builtin_folder, load_model, locate


@pytest.mark.parametrize(
    ("name", "modality", "weights", "said"),
    [
        ("no/such-model-anywhere", "text", "pretrained", "--text-model no/such-model-anywhere"),
        ("bert-base", "text", "pretrained", "--weights random"),
        ("bert-base", "image", "random", "is a text encoder"),
        ("vit-base", "text", "random", "is a image encoder"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(name: str, modality: str, weights: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        locate(name, modality, weights)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_folder_without_configuration(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        locate(str(tmp_path), "text")


def test_text_encoder_as_image_model(model_folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="not an image encoder"):
        locate(str(model_folders["bert"]), "image")


def test_missing_weights_are_not_drawn_at_random(model_folders: dict[str, Path], tmp_path: Path) -> None:
    tensors = load_file(model_folders["bert"] / "model.safetensors")
    gone = next(name for name in tensors if "query.weight" in name)
    save_file(
        {k: v for k, v in tensors.items() if k != gone}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    (tmp_path / "config.json").write_text((model_folders["bert"] / "config.json").read_text())
    with pytest.raises(UserError, match=r"not in the checkpoint, e\.g\. .*query\.weight"):
        load_model(locate(str(tmp_path), "text"))


def test_pickled_weights_are_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    torch.save(load_file(model_folders["bert"] / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((model_folders["bert"] / "config.json").read_text())
    with pytest.raises(UserError, match="weights cannot be had"):
        load_model(locate(str(tmp_path), "text"))


@pytest.mark.parametrize("coverage", ["shop-partial", "shop-full"])
@pytest.mark.parametrize("modality", ["text", "image"])
def test_shipped_backbones_are_what_was_recorded(coverage: str, modality: str) -> None:
    import hashlib

    folder = builtin_folder(coverage, modality)  # type: ignore[arg-type]
    weights = folder / "model.safetensors"
    recorded = json.loads((BUILTIN_DIR / "digests.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == recorded[folder.name]
    assert weights.stat().st_size <= 1.5 * 2**20
    assert {t.dtype for t in load_file(weights).values()} == {torch.float16}
    source = locate(coverage, modality)  # type: ignore[arg-type]
    assert (source.width, source.depth) == (64, 12)
    assert {p.dtype for p in load_model(source).parameters()} == {torch.float32}
