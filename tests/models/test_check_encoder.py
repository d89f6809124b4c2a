"""An encoder gives the same states twice, or no cell is timed with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as t

from bench.models.backbones import locate
from bench.models.encoders import OUTPUT, Encoder
from bench.models.loading.check_encoder import check_encoder
from bench.utils.errors import UserError
from tests.helpers import encoder, image_inputs, text_inputs
from tests.zoo import PICTURE, SMALL


def test_vit_mae_hides_no_patches(tmp_path: Path) -> None:
    """Its states are those of the ViT with the same weights: all patches, in their order."""
    config = t.ViTMAEConfig(**SMALL, **PICTURE, mask_ratio=0.75)
    torch.manual_seed(0)
    t.ViTMAEModel(config).save_pretrained(tmp_path)
    source = locate(str(tmp_path), "image")
    assert source.preprocessing.notes == ("vit_mae hides 75% of the patches at random; here it hides none",)
    e, x = Encoder.from_source(source), image_inputs()
    with torch.no_grad():
        first, again = (e.hidden_states(x, (0, 1, 2, 3, OUTPUT)) for _ in range(2))
        assert torch.equal(first, again)
        assert e.output(x).shape == (5, 5, 24)  # a class token and all four patches
        full = e.model.embeddings.patch_embeddings((x["pixels"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
        patches = full + e.model.embeddings.position_embeddings[:, 1:]
        in_order = e.model.embeddings(
            (x["pixels"].permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, noise=torch.arange(4.0).expand(5, -1)
        )[0]
        assert torch.allclose(in_order[:, 1:], patches, atol=1e-6)
    check_encoder(e, x)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_other_states_in_a_second_pass_are_refused(modality: str, model_folders: dict[str, Path]) -> None:
    e = encoder(model_folders["bert" if modality == "text" else "vit"], modality)
    x = text_inputs() if modality == "text" else image_inputs()
    check_encoder(e.train(), x)  # dropout is no fault
    assert e.training
    noise = [1e-9]
    e.model.embeddings.register_forward_hook(lambda _, __, out: out + noise[0] * torch.randn_like(out))
    check_encoder(e, x)  # sums in another order are none either
    noise[0] = 0.1
    with pytest.raises(UserError, match=rf"--{modality}-model: .*Model is not deterministic in eval mode"):
        check_encoder(e, x)
