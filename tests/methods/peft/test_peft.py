"""The traps of transformers 5 and peft: targets that miss an encoder, weights that are replaced, prefixes ignored."""

from pathlib import Path

import pytest
import torch

from methods.base import Encoder
from methods.peft.lora import LoRA
from methods.peft.prefix import Prefix
from tests.helpers import encoder, inputs, text_inputs
from tests.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, FamilyFolder

FAMILIES = [(f, "text") for f in TEXT_FAMILIES] + [(f, "image") for f in IMAGE_FAMILIES]


def adapted(method, e: Encoder):  # type: ignore[no-untyped-def]
    e.requires_grad_(False)
    done = method.adapt(e)
    parameters = list(done.parameters)
    for p in parameters:
        p.requires_grad_(True)
    return done, parameters


@pytest.mark.parametrize(("family", "modality"), FAMILIES)
def test_lora_sits_on_the_pretrained_weights(family: str, modality: str, model_folders: dict[str, Path]) -> None:
    x = inputs(modality)
    plain = encoder(model_folders[family], modality)
    e = encoder(model_folders[family], modality)
    done, parameters = adapted(LoRA(rank=4), e)
    assert done.modules == 8  # query and value of 4 layers
    assert sum(p.numel() for p in parameters) == 8 * 2 * 4 * 24
    assert torch.equal(e(x), plain(x))
    before = {k: v for k, v in plain.model.state_dict().items() if "query.weight" in k or "q_" in k}
    after = {k.replace(".base_layer", ""): v for k, v in e.model.state_dict().items()}
    assert before
    assert all(torch.equal(after[k], v) for k, v in before.items())
    e(x).square().sum().backward()
    # B starts at zero, so at the first step only B gets a gradient, in every adapted module.
    moved = [p for n, p in e.model.named_parameters() if "lora_B" in n]
    assert len(moved) == 8
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in moved)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("family", "modality"), FAMILIES)
def test_prefix_acts_in_every_layer(family: str, modality: str, attention: str, model_folders: dict[str, Path]) -> None:
    x = inputs(modality)
    e = encoder(model_folders[family], modality)
    e.model.set_attn_implementation(attention)
    before = e(x)
    done, parameters = adapted(Prefix(positions=3, spread=1.0), e)
    assert done.modules == 4
    assert [p.numel() for p in parameters] == [3 * 4 * 2 * 24]
    after = e(x)
    assert (after - before).abs().max() > 1e-3
    after.square().sum().backward()
    gradient = parameters[0].grad
    assert gradient is not None
    # (positions, layers, key or value, heads * head width): no layer, neither keys nor values are idle.
    assert (gradient.view(3, 4, 2, 24).abs().sum(dim=(0, 3)) > 0).all()


@pytest.mark.parametrize(("family", "modality"), [("bert", "text"), ("vit", "image")])
def test_prefix_equals_attention_written_out(family: str, modality: str, model_folders: dict[str, Path]) -> None:
    """sdpa and eager agree, and a prefix that nobody looks at changes nothing."""
    x = inputs(modality)
    plain = encoder(model_folders[family], modality)
    outputs = []
    for attention in ("sdpa", "eager"):
        e = encoder(model_folders[family], modality)
        e.model.set_attn_implementation(attention)
        torch.manual_seed(3)
        _, parameters = adapted(Prefix(positions=3, spread=0.7), e)
        outputs.append(e(x))
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)
    # With values of zero and keys of zero the prefix still takes attention away from the real tokens.
    with torch.no_grad():
        parameters[0].zero_()
    assert not torch.allclose(e(x), plain(x), atol=1e-4)


def test_short_target_names_would_have_missed_vit(model_folders: dict[str, Path]) -> None:
    """The trap itself: BERT's names hit nothing in ViT. Ours are resolved per encoder."""
    vit = encoder(model_folders["vit"], "image").model
    assert not [n for n, _ in vit.named_modules() if n.endswith((".query", ".value"))]
    done, _ = adapted(LoRA(), encoder(model_folders["vit"], "image"))
    assert done.modules == 8


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "clip-text", "modernbert", "albert"])
def test_prefix_in_other_attentions(family: str, family_folder: FamilyFolder) -> None:
    """Fewer heads of keys than of queries, causal and sliding masks, masks that transformers leaves out."""
    whole = {k: v[:1] for k, v in text_inputs().items()}  # no padding, so sdpa gets no mask
    cut = {k: v[:, :6] for k, v in whole.items()}
    outputs = []
    for attention in ("sdpa", "eager"):
        e = encoder(family_folder(family), "text")
        e.use_attention(attention)
        before = e.output(whole)
        torch.manual_seed(3)
        adapted(Prefix(positions=3, spread=0.7), e)
        after = e.output(whole)
        assert (after - before).abs().amax(dim=-1).min() > 1e-3  # every token sees the prefix
        outputs.append(after)
        # A causal encoder's first tokens do not see the later ones, with a prefix as without.
        causal = family not in ("modernbert", "albert")
        assert torch.allclose(e.output(cut), after[:, :6], atol=1e-5) is causal
        padded = {"input_ids": text_inputs()["input_ids"][:2], "attention_mask": text_inputs()["attention_mask"][:2]}
        padded["input_ids"][0] = whole["input_ids"][0]
        assert torch.allclose(e.output(padded)[:1], after, atol=1e-5)
    assert torch.allclose(outputs[0], outputs[1], atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "modernbert"])
def test_lora_on_a_map_of_all_three(family: str, family_folder: FamilyFolder) -> None:
    x = text_inputs()
    plain, e = (encoder(family_folder(family), "text") for _ in range(2))
    done, parameters = adapted(LoRA(rank=4), e)
    assert done.modules == 3
    assert sum(p.numel() for p in parameters) == 3 * 4 * (24 + 72)
    assert torch.equal(e(x), plain(x))
