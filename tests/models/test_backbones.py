import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.models.backbones import BUILTIN_DIR, builtin_folder, load_model, locate
from bench.models.config import PRETRAINED
from bench.utils.errors import UserError
from tests.tiny import FamilyFolder


@pytest.mark.parametrize(
    ("name", "modality", "weights", "said"),
    [
        ("no/such-model-anywhere", "text", "pretrained", "--text-model no/such-model-anywhere"),
        ("shop-burried", "text", "pretrained", "unknown built-in encoder; did you mean 'shop-buried'"),
        ("bert-base", "text", "pretrained", "--weights random"),
        ("bert-base", "image", "random", "is a text encoder"),
        ("vit-base", "text", "random", "is an image encoder"),
        ("clip-base", "image", "pretrained", "--weights random"),
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


@pytest.mark.parametrize("family", ["beit", "convnext", "vit"])
def test_image_encoder_as_text_model(family: str, family_folder: FamilyFolder) -> None:
    # BEiT's configuration has a vocabulary, of pictures.
    with pytest.raises(UserError, match="not a text encoder"):
        locate(str(family_folder(family)), "text")


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import BartConfig

    BartConfig(vocab_size=10).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="bart is an encoder with a decoder"):
        locate(str(tmp_path), "text")


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_one_folder_gives_both_towers(family: str, family_folder: FamilyFolder) -> None:
    tensors = load_file(family_folder(f"{family}-text") / "model.safetensors")
    for modality, tower in (("text", "text_model"), ("image", "vision_model")):
        loaded = load_model(locate(str(family_folder(f"{family}-text")), modality)).state_dict()  # type: ignore[arg-type]
        stored = {k.removeprefix(f"{tower}."): v for k, v in tensors.items() if k.startswith(tower)}
        heads = {k for k in stored if k.startswith("head.")}
        assert loaded.keys() == stored.keys() - heads
        assert all(torch.equal(loaded[k], stored[k]) for k in loaded)


def test_a_tower_saved_alone(family_folder: FamilyFolder, tmp_path: Path) -> None:
    import transformers

    for name in ("CLIPTextModel", "CLIPVisionModel", "SiglipTextModel", "SiglipVisionModel"):
        family = "clip" if "CLIP" in name else "siglip"
        cls = getattr(transformers, name)
        cls.from_pretrained(family_folder(f"{family}-text")).save_pretrained(tmp_path / name)
        modality = "text" if "Text" in name else "image"
        alone = load_model(locate(str(tmp_path / name), modality)).state_dict()  # type: ignore[arg-type]
        both = load_model(locate(str(family_folder(f"{family}-text")), modality)).state_dict()  # type: ignore[arg-type]
        assert alone.keys() == both.keys()
        assert all(torch.equal(alone[k], both[k]) for k in alone)


def test_weights_missing_in_the_other_tower_do_not_matter(family_folder: FamilyFolder, tmp_path: Path) -> None:
    tensors = load_file(family_folder("clip-text") / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if not k.startswith("vision_model.encoder")},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    (tmp_path / "config.json").write_text((family_folder("clip-text") / "config.json").read_text())
    load_model(locate(str(tmp_path), "text"))
    with pytest.raises(UserError, match=r"not in the checkpoint, e\.g\. vision_model"):
        load_model(locate(str(tmp_path), "image"))


@pytest.mark.parametrize(
    ("family", "facts", "size", "mean"),
    [
        ("vit", {"size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3]}, 32, (0.1, 0.2, 0.3)),
        ("dinov2", {"size": {"shortest_edge": 256}, "crop_size": {"height": 64, "width": 64}}, 64, (0.5, 0.5, 0.5)),
        ("convnext", {"size": {"shortest_edge": 64}, "do_normalize": False}, 64, (0.0, 0.0, 0.0)),
        ("swin", {}, 32, (0.5, 0.5, 0.5)),
    ],
)
def test_size_and_scale_are_those_of_the_preprocessor(
    family: str, facts: dict, size: int, mean: tuple, family_folder: FamilyFolder, tmp_path: Path
) -> None:
    """The size where the encoder takes any; ViT's positions have one of their own."""
    (tmp_path / "config.json").write_text((family_folder(family) / "config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    found = locate(str(tmp_path), "image", "random").preprocessing
    assert (found.image_size, found.mean) == (size, mean)
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": facts}))
    assert locate(str(tmp_path), "image", "random").preprocessing == found


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
    with pytest.raises(UserError, match=r"weights are pickled \(pytorch_model\.bin\), and pickles are never loaded"):
        load_model(locate(str(tmp_path), "text"))


@pytest.mark.parametrize("pair", PRETRAINED)
@pytest.mark.parametrize("modality", ["text", "image"])
def test_shipped_backbones_are_what_was_recorded(pair: str, modality: str) -> None:
    import hashlib

    folder = builtin_folder(pair, modality)  # type: ignore[arg-type]
    weights = folder / "model.safetensors"
    recorded = json.loads((BUILTIN_DIR / "digests.json").read_text())
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == recorded[folder.name]
    assert weights.stat().st_size <= 1.5 * 2**20
    assert {t.dtype for t in load_file(weights).values()} == {torch.float16}
    source = locate(pair, modality)  # type: ignore[arg-type]
    assert (source.width, source.depth) == (64, 12)
    assert {p.dtype for p in load_model(source).parameters()} == {torch.float32}
