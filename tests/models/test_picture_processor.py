"""Pictures are resized, cropped and normalised as the model's processor does it, held against transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from bench.data.framing import Framing
from bench.data.readers.images import decode_image
from bench.data.shop.shop import ShopConfig, make_shop
from bench.models.backbones import locate
from bench.models.inputs import pixels
from bench.utils.errors import UserError
from tests.tiny import FamilyFolder

SHORT = {"shortest_edge": 40}
CROPPED = {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
PROCESSORS: dict[str, tuple[str, Any]] = {
    "clip": ("clip-vision", t.CLIPImageProcessorPil(size=SHORT, crop_size=32)),
    "clip, defaults of the class": ("clip-vision", t.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)),
    "vit": ("vit", t.ViTImageProcessorPil(size={"height": 32, "width": 32})),
    "vit, nearest": ("vit", t.ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=0)),
    "siglip": ("siglip-vision", t.SiglipImageProcessorPil(size={"height": 32, "width": 32})),
    "deit": ("deit", t.DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size=32)),
    "dinov2": ("dinov2", t.BitImageProcessorPil(size=SHORT, crop_size={"height": 32, "width": 32})),
    "dinov2, small": ("dinov2", t.BitImageProcessorPil(size={"shortest_edge": 25}, crop_size=32)),
    "convnext": ("convnext", t.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875)),
    "convnext, large": ("convnext", t.ConvNextImageProcessorPil(size={"shortest_edge": 384})),
    "not rescaled": ("vit", t.ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False)),
    "rescaled to -1..1": (
        "vit",
        t.ViTImageProcessorPil(
            size={"height": 32, "width": 32}, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3
        ),
    ),
    "not normalised": ("vit", t.ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False)),
}


def source_of(family: str, facts: dict[str, Any], family_folder: FamilyFolder, folder: Path):  # type: ignore[no-untyped-def]
    (folder / "config.json").write_text((family_folder(family) / "config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return locate(str(folder), "image", "random")


def picture(folder: Path, width: int, height: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(folder / "p.png")
    return folder / "p.png"


@pytest.mark.parametrize("shape", [(90, 50), (50, 91), (64, 64), (31, 57)])
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixel_values_are_those_of_transformers(
    name: str, shape: tuple[int, int], family_folder: FamilyFolder, tmp_path: Path
) -> None:
    family, processor = PROCESSORS[name]
    facts = json.loads(processor.to_json_string())
    pre = source_of(family, facts, family_folder, tmp_path).preprocessing
    path = picture(tmp_path, *shape)
    ours = torch.from_numpy(decode_image(path, pre.picture).copy()).float()
    ours = (ours - 255 * torch.tensor(pre.mean)) / (255 * torch.tensor(pre.std))
    theirs = torch.as_tensor(processor(Image.open(path), return_tensors="pt")["pixel_values"][0]).permute(1, 2, 0)
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not pre.notes


def test_what_a_file_leaves_out_is_that_of_the_class_it_names(family_folder: FamilyFolder, tmp_path: Path) -> None:
    facts = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 36}, "crop_size": 32}
    pre = source_of("clip-vision", facts, family_folder, tmp_path).preprocessing
    assert pre.framing == Framing(32, 36, 32, Image.Resampling.BICUBIC)
    assert pre.mean[0] == pytest.approx(0.48145466)


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"size": SHORT, "do_center_crop": False}, "cropped to their middle"),
        ({"do_resize": False}, "does not resize"),
        ({"size": {"longest_edge": 40}}, "is not supported; pictures are resized plainly"),
        ({"size": {"height": 64, "width": 64}}, "gives 64 × 64 pixels, the encoder takes 32 × 32"),
    ],
)
def test_what_is_done_in_another_way_is_told(
    facts: dict[str, Any], note: str, family_folder: FamilyFolder, tmp_path: Path
) -> None:
    assert any(note in each for each in source_of("vit", facts, family_folder, tmp_path).preprocessing.notes)


def test_swapped_colours_are_refused(family_folder: FamilyFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="swaps red and blue"):
        source_of("vit", {"do_flip_channel_order": True}, family_folder, tmp_path)


def test_pictures_of_the_shop_are_framed_too() -> None:
    shop = make_shop(ShopConfig(items=60, users=20))
    framing = Framing(32, 40, 32, Image.Resampling.BICUBIC)
    framed = np.asarray(pixels(shop, framing)[np.arange(60)])
    assert shop.images is not None
    for row in (0, 59):
        by_hand = Image.fromarray(shop.images[row]).resize((40, 40), Image.Resampling.BICUBIC).crop((4, 4, 36, 36))
        assert np.array_equal(framed[row], np.asarray(by_hand))
    assert pixels(shop, Framing(32, (32, 32))) is shop.images


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_channels": 1}, "takes pictures of 1 channels; only 3"),
        ({"image_size": [32, 48]}, "takes pictures of 32 × 48 pixels; only squares are supported"),
    ],
)
def test_pictures_that_cannot_be_given_are_refused_at_once(
    sizes: dict[str, Any], said: str, family_folder: FamilyFolder, tmp_path: Path
) -> None:
    config = json.loads((family_folder("vit") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **sizes}))
    with pytest.raises(UserError, match=said):
        locate(str(tmp_path), "image", "random")
