"""Every family from a folder: states against transformers' own, and every method that can apply."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch

from bench.cell.sanity_checks import check_sanity
from bench.models import families
from bench.models.backbones import locate
from bench.models.encoders import OUTPUT, Encoder
from bench.models.hidden_states import HIDDEN_KEY, CachedHiddenStates, LiveHiddenStates
from bench.models.recommender import Recommender, TrainBatch, UserEncoder
from bench.models.structure import layers
from bench.utils.errors import UserError
from methods.base import EncoderMethod, HiddenMethod, Shape, method_class
from methods.registry import REGISTRY
from tests.helpers import image_inputs
from tests.tiny import FamilyFolder
from tests.zoo import V, configurations

FAMILIES = configurations()
METHODS = tuple(REGISTRY)
POOLING = {
    **dict.fromkeys(("gpt2", "llama", "qwen2", "qwen3", "clip-text", "siglip-text"), "last-token"),
    **dict.fromkeys(("t5", "swin", "convnext", "siglip-vision"), "mean"),
}
# What cannot apply, and what is said then.
REFUSED = {
    ("bitfit", "modernbert"): "ModernBertModel has no biases",
    ("bitfit", "t5"): "T5EncoderModel has no biases",
    ("bitfit", "llama"): "LlamaModel has no biases",
    ("bitfit", "qwen3"): "Qwen3Model has no biases",
    ("lora", "convnext"): "ConvNextModel has no query map",
    ("peft", "convnext"): "ConvNextModel has no key map",
    ("prefix", "mpnet"): "MPNetModel has attention code of its own",
    ("prefix", "deberta-v2"): "DebertaV2Model has attention code of its own",
    ("prefix", "t5"): "T5EncoderModel has attention code of its own",
    ("prefix", "swin"): "layers of SwinModel differ",
    ("prefix", "convnext"): "layers of ConvNextModel differ",
}
# Distinct layers, where they are not as many as run.
LAYERS = {"albert": 1}
OPTIONS = {
    "adapter": {"bottleneck": 4},
    "lora": {"rank": 2},
    "prefix": {"positions": 3, "spread": 0.2},
    "iisan": {"bottleneck": 4},
    "iisan-cached": {"bottleneck": 4, "cached": True},
}
LR = {"lr": 1e-2, "lr_head": 1e-2}


def encoder(family: str, family_folder: FamilyFolder, pooling: str = "auto") -> Encoder:
    """A copy of an encoder that is read from its folder once."""
    return copy.deepcopy(read(str(family_folder(family)), FAMILIES[family][0], pooling))


@cache
def read(folder: str, modality: str, pooling: str) -> Encoder:
    return Encoder.from_source(locate(folder, modality, "pretrained", pooling))  # type: ignore[arg-type]


def inputs(family: str) -> dict[str, torch.Tensor]:
    """Items of one to nine tokens; padding holds what would show if it were looked at."""
    if FAMILIES[family][0] == "image":
        return image_inputs(6)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(9) < torch.tensor([9, 6, 4, 9, 1, 7])[:, None]).long()
    ids = torch.randint(5, V, (6, 9), generator=generator)
    if family == "roberta":
        ids[mask == 0] = 1
    return {"input_ids": ids, "attention_mask": mask}


def pooled(tokens: torch.Tensor, pooling: str, mask: torch.Tensor | None) -> torch.Tensor:
    """By hand, item by item; tokens (n, tokens, width) or (n, width, height, width in patches)."""
    rows = []
    for item, row in enumerate(tokens):
        row = row.flatten(1).T if row.ndim == 3 else row
        real = row if mask is None else row[: int(mask[item].sum())]
        rows.append({"cls": real[0], "mean": sum(real) / len(real), "last-token": real[-1]}[pooling])
    return torch.stack(rows)


def theirs(e: Encoder, x: dict[str, torch.Tensor]):  # type: ignore[no-untyped-def]
    if e.modality == "text":
        return e.model(**x, output_hidden_states=True)
    more = {"output_hidden_states_before_downsampling": True} if "Swin" in type(e.model).__name__ else {}
    pixels = (x["pixels"].permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    return e.model(pixel_values=pixels, output_hidden_states=True, **more)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_transformers(family: str, family_folder: FamilyFolder) -> None:
    e, x = encoder(family, family_folder), inputs(family)
    expected = POOLING.get(family, "cls")
    assert e.pooling == expected
    mask = x.get("attention_mask")
    with torch.no_grad():
        ours = e.hidden_states(x, (*range(e.depth + 1), OUTPUT))
        out = theirs(e, x)
        assert torch.allclose(ours[:, -1], e(x), atol=1e-6)
    assert ours.shape == (6, e.depth + 2, e.width)
    if not families.is_hierarchical(e.model.config):
        # The last one transformers gives after the final norm in some families and before it in others.
        assert len(out.hidden_states) == e.depth + 1 == 4
        for layer in range(e.depth):
            assert torch.allclose(ours[:, layer], pooled(out.hidden_states[layer], expected, mask), atol=1e-5)
    else:
        assert e.depth == 3
        ends = out.reshaped_hidden_states if family == "swin" else out.hidden_states
        for layer, states in ((1, ends[-2]), (3, ends[-1])):
            vectors = pooled(states, expected, mask)
            width = vectors.shape[1]
            assert torch.allclose(ours[:, layer, :width], vectors, atol=1e-5)
            assert not ours[:, layer, width:].any()
        assert ours[:, 0, :16].any()
        assert not ours[:, 0, 16:].any()
    last = pooled(out.last_hidden_state, expected, mask)
    if family in ("clip-vision", "convnext"):
        last = out.pooler_output  # the norm is theirs
    assert torch.allclose(ours[:, -1], last, atol=1e-5)
    if family == "clip-text":
        x["input_ids"][torch.arange(6), mask.sum(1) - 1] = 3  # type: ignore[union-attr]
        assert torch.allclose(e(x), e.model(**x).pooler_output, atol=1e-5)


@pytest.mark.parametrize("family", [f for f, (modality, _) in FAMILIES.items() if modality == "text"])
def test_padding_changes_nothing(family: str, family_folder: FamilyFolder) -> None:
    e, x = encoder(family, family_folder), inputs(family)
    with torch.no_grad():
        together = e.hidden_states(x, (1, OUTPUT))
        for item in (1, 2, 5):
            length = int(x["attention_mask"][item].sum())
            alone = e.hidden_states({k: v[item : item + 1, :length] for k, v in x.items()}, (1, OUTPUT))
            assert torch.allclose(together[item : item + 1], alone, atol=1e-5)


def batch(x: dict[str, torch.Tensor]) -> TrainBatch:
    items = torch.full((3, 11), -1)
    items[0, 7:], items[1, 8:], items[2, 9:] = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 4, 5]), torch.tensor([2, 0])
    positions = torch.nonzero((items[:, :-1] >= 0).flatten())[:, 0]
    return TrainBatch(x, items, positions, torch.full((6,), 1 / 6).log())


def build(name: str, encoders: dict[str, Encoder], x: dict[str, torch.Tensor]):  # type: ignore[no-untyped-def]
    options = {**OPTIONS.get(name, {}), **{k: v for k, v in LR.items() if hasattr(method_class(name), k)}}
    if name == "fft":
        options |= {"lr_text": 1e-3, "lr_image": 1e-3}
    method = method_class(name)(**options)
    if isinstance(method, EncoderMethod):
        return method.build(encoders, 16), x
    assert isinstance(method, HiddenMethod)
    shapes = {m: Shape(e.width, e.depth, e.widths) for m, e in encoders.items()}
    kept = method.kept_of(shapes)
    if not method.cached:
        return method.build(LiveHiddenStates(encoders, kept), shapes, 16), x
    with torch.no_grad():
        states = {HIDDEN_KEY.format(m): e.hidden_states(x, kept[m]) for m, e in encoders.items()}
    return method.build(CachedHiddenStates(tuple(encoders)), shapes, 16), states


def passes_gates(name: str, encoders: dict[str, Encoder], x: dict[str, torch.Tensor]) -> dict[str, int]:
    """What a cell checks before its clock starts: what trains changes, the rest does not, the loss falls."""
    torch.manual_seed(1)
    items, x = build(name, encoders, x)
    model = Recommender(items, UserEncoder(16), 0.25).train()
    groups = [*items.groups]
    optimizer = torch.optim.Adam(
        [{"params": g.parameters, "lr": g.lr} for g in groups] + [{"params": model.user_encoder.parameters()}]
    )

    def step(b: TrainBatch) -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(b)
        loss.backward()
        optimizer.step()
        return loss.detach()

    declared = [p for g in groups for p in g.parameters] + list(model.user_encoder.parameters())
    check_sanity(model, step, batch(x), declared, items.adapted)
    return items.adapted


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.slow
def test_methods(name: str, family: str, family_folder: FamilyFolder) -> None:
    modality = FAMILIES[family][0]
    e = encoder(family, family_folder)
    if (name, family) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name, family]) as said:
            build(name, {modality: e}, inputs(family))
        assert "\n" not in str(said.value)
        return
    count = LAYERS.get(family, 3)
    assert len(layers(e.model)) == count
    adapted = passes_gates(name, {modality: e}, inputs(family))[modality]
    if name in ("lora", "adapter"):
        fused = name == "lora" and family in ("gpt2", "modernbert")
        single = fused or (name == "adapter" and family == "convnext")
        assert adapted == count * (1 if single else 2)
    elif name == "prefix":
        assert adapted == count
    else:
        assert adapted > 0


@pytest.mark.parametrize(
    ("text", "image"),
    [("bert", "swin"), ("albert", "convnext"), ("llama", "clip-vision"), ("siglip-text", "siglip-vision")],
)
@pytest.mark.parametrize("name", ["frozen", "iisan", "iisan-cached", "adapter"])
@pytest.mark.slow
def test_unequal_pairs(name: str, text: str, image: str, family_folder: FamilyFolder) -> None:
    encoders = {"text": encoder(text, family_folder), "image": encoder(image, family_folder)}
    adapted = passes_gates(name, encoders, {**inputs(text), **inputs(image)})
    if "iisan" in name:
        assert adapted["text"] == adapted["image"] == 2


@pytest.mark.parametrize(
    ("family", "pooling", "said"),
    [
        ("convnext", "cls", "image_pooling cls: ConvNextModel has no class or last token"),
        ("siglip-vision", "cls", "has no class or last token"),
        ("gpt2", "cls", "text_pooling cls: the first token of GPT2Model attends to no other token"),
    ],
)
def test_poolings_that_cannot_be(family: str, pooling: str, said: str, family_folder: FamilyFolder) -> None:
    with pytest.raises(UserError, match=said):
        encoder(family, family_folder, pooling)


@pytest.mark.parametrize(("family", "skip"), [("vit", 1), ("deit", 2), ("beit", 1), ("dinov2", 1), ("clip-vision", 1)])
def test_a_mean_of_patches_leaves_class_tokens_out(family: str, skip: int, family_folder: FamilyFolder) -> None:
    e, x = encoder(family, family_folder, "mean"), inputs(family)
    with torch.no_grad():
        expected = theirs(e, x).hidden_states[2][:, skip:]
        assert expected.shape[1] == 4
        assert torch.allclose(e.hidden_states(x, (2,))[:, 0], expected.mean(1), atol=1e-5)
