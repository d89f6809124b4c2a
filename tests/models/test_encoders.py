from pathlib import Path

import pytest
import torch

from bench.models.encoders import OUTPUT
from bench.models.structure import attentions, has_attention, layers, linears
from bench.utils.errors import UserError
from tests.helpers import encoder, inputs
from tests.tiny import IMAGE_FAMILIES, TEXT_FAMILIES

FAMILIES = [(f, "text") for f in TEXT_FAMILIES] + [(f, "image") for f in IMAGE_FAMILIES]


@pytest.mark.parametrize(("family", "modality"), FAMILIES)
def test_hidden_states_are_those_of_transformers(family: str, modality: str, model_folders: dict[str, Path]) -> None:
    e, x = encoder(model_folders[family], modality), inputs(modality)
    with torch.no_grad():
        ours = e.hidden_states(x, (0, 1, 4, OUTPUT))
        if modality == "text":
            theirs = e.model(**x, output_hidden_states=True)
        else:
            pixels = x["pixels"].permute(0, 3, 1, 2).float() / 255
            theirs = e.model(pixel_values=(pixels - 0.5) / 0.5, output_hidden_states=True)
    for position, layer in enumerate((0, 1, 4)):
        assert torch.allclose(ours[:, position], theirs.hidden_states[layer][:, 0], atol=1e-6)
    assert torch.allclose(ours[:, 3], theirs.last_hidden_state[:, 0], atol=1e-6)


def test_last_layer_of_vit_is_not_its_output_but_of_bert_it_is(model_folders: dict[str, Path]) -> None:
    # transformers gives ViT's last hidden state before the final LayerNorm.
    for family, modality, same in (("vit", "image", False), ("bert", "text", True)):
        e = encoder(model_folders[family], modality)
        with torch.no_grad():
            states = e.hidden_states(inputs(modality), (4, OUTPUT))
        assert torch.allclose(states[:, 0], states[:, 1]) is same


@pytest.mark.parametrize(("family", "modality"), FAMILIES)
def test_every_role_is_found_once_per_layer(family: str, modality: str, model_folders: dict[str, Path]) -> None:
    model = encoder(model_folders[family], modality).model
    assert len(layers(model)) == 4
    found = {role: linears(model, role) for role in ("query", "key", "value", "attention_output", "mlp_output")}  # type: ignore[arg-type]
    assert all(len(hits) == 4 for hits in found.values())
    names = [name for hits in found.values() for name in hits]
    assert len(set(names)) == 20
    assert all(linear.in_features == 48 for linear in found["mlp_output"].values())
    assert all(linear.in_features == 24 for linear in found["attention_output"].values())
    assert len({id(module) for module in attentions(model)}) == 4


def test_attention_without_linear_maps_is_not_taken_for_none() -> None:
    """XLNet's projections are bare parameters: an adapter behind the MLP alone would be half of one."""
    from transformers import XLNetConfig, XLNetModel

    model = XLNetModel(XLNetConfig(vocab_size=9, d_model=8, n_layer=2, n_head=2, d_inner=16))
    assert has_attention(model)
    with pytest.raises(UserError, match="XLNetModel has no attention output map in 2 of its 2 layers"):
        linears(model, "attention_output")


def test_pooler_is_gone_and_weights_are_32_bit(model_folders: dict[str, Path], tmp_path: Path) -> None:
    from transformers import BertModel

    from bench.models.backbones import locate
    from bench.models.encoders import Encoder

    BertModel.from_pretrained(model_folders["bert"]).half().save_pretrained(tmp_path)
    model = Encoder.from_source(locate(str(tmp_path), "text")).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any("pooler" in name for name, _ in model.named_parameters())
