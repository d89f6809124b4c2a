import copy
from pathlib import Path

import pytest
import torch

from bench.config.matrix import MethodConfig, build_method
from bench.models.encoders import OUTPUT
from bench.models.hidden_states import CachedHiddenStates, LiveHiddenStates
from bench.utils.errors import UserError
from methods.adapter import Adapter
from methods.base import EncoderMethod, Shape
from methods.bitfit import BitFit
from methods.fft import FullFineTuning
from methods.frozen import Frozen
from methods.iisan import IISAN
from tests.helpers import encoder, image_inputs, inputs, text_inputs


def both(model_folders: dict[str, Path]) -> dict:
    return {"text": encoder(model_folders["bert"], "text"), "image": encoder(model_folders["vit"], "image")}


def test_adapter_is_the_identity_at_the_start_and_counts(model_folders: dict[str, Path]) -> None:
    for family, modality in (("bert", "text"), ("deit", "image")):
        plain, e = encoder(model_folders[family], modality), encoder(model_folders[family], modality)
        done = Adapter(bottleneck=5).adapt(e)
        assert done.modules == 8
        assert sum(p.numel() for p in done.parameters) == 8 * (24 * 5 + 5 + 5 * 24 + 24)
        assert torch.equal(e(inputs(modality)), plain(inputs(modality)))


def test_bitfit_trains_biases_alone(model_folders: dict[str, Path]) -> None:
    e = encoder(model_folders["bert"], "text")
    parameters = list(BitFit().adapt(e).parameters)
    assert all(p.ndim == 1 for p in parameters)
    assert sum(p.numel() for p in parameters) == sum(
        v.numel() for k, v in e.model.state_dict().items() if k.endswith("bias")
    )


@pytest.mark.parametrize("method", [FullFineTuning(), BitFit(), Adapter(bottleneck=4)])
def test_groups_hold_exactly_what_trains(method: EncoderMethod, model_folders: dict[str, Path]) -> None:
    items = method.build(both(model_folders), 16)
    declared = {id(p) for group in items.groups for p in group.parameters}
    assert declared == {id(p) for p in items.parameters() if p.requires_grad}
    assert {group.name for group in items.groups} == {"text", "image", "head"}
    assert items({**text_inputs(), **image_inputs()}).shape == (5, 16)


@pytest.mark.parametrize("method", [IISAN(bottleneck=4, layers="all"), IISAN(bottleneck=4, layers=(1, 3)), Frozen()])
def test_live_and_cached_states_give_the_same_vectors(method, model_folders: dict[str, Path]) -> None:  # type: ignore[no-untyped-def]
    encoders = both(model_folders)
    shapes = {m: Shape(24, 4) for m in encoders}
    kept = {m: method.kept(Shape(24, 4)) for m in encoders}
    live = method.build(LiveHiddenStates(encoders, kept), shapes, 16).train()
    cached = method.build(CachedHiddenStates(("text", "image")), shapes, 16).train()
    cached.head = copy.deepcopy(live.head)
    x = {**text_inputs(), **image_inputs()}
    with torch.no_grad():
        states = {f"hidden_{m}": e.eval().hidden_states(x, kept[m]) for m, e in encoders.items()}
    assert torch.allclose(live(x), cached(states), atol=1e-6)
    half = {k: v.half() for k, v in states.items()}
    assert torch.allclose(live(x), cached(half), atol=5e-3)
    live(x).sum().backward()
    assert all(p.grad is None for e in encoders.values() for p in e.parameters())
    # The recommender goes to train mode; the frozen encoders must not follow.
    assert not any(e.training for e in encoders.values())


def test_iisan_options_change_what_is_built() -> None:
    shapes = {"text": Shape(24, 4), "image": Shape(24, 4)}

    def count(**options) -> int:  # type: ignore[no-untyped-def]
        return sum(p.numel() for p in IISAN(bottleneck=4, **options).network(shapes, 16).parameters())

    block = 24 * 4 + 4 + 4 * 24 + 24
    ends = 24 * 24 + 24 + 24 * 16 + 16
    network = 3 * (block + 1) + ends  # layers 0, 2, 4
    assert count() == 3 * network + 48 * 16 + 16
    assert count(gated=False) == 3 * (network - 3) + 48 * 16 + 16
    assert count(inter=False) == 2 * network + 32 * 16 + 16
    assert count(intra=False) == network + 16 * 16 + 16
    assert count(layers="all") == 3 * (network + 2 * (block + 1)) + 48 * 16 + 16


def test_iisan_kept_layers() -> None:
    assert IISAN().kept(Shape(768, 12)) == (0, 2, 4, 6, 8, 10, 12)
    assert IISAN(layers="all").kept(Shape(8, 3)) == (0, 1, 2, 3)
    assert Frozen().kept(Shape(8, 3)) == (OUTPUT,)
    with pytest.raises(UserError, match="a backbone of 4 layers has the layers 0 to 4, got"):
        IISAN(layers=(0, 5)).kept(Shape(8, 4))


@pytest.mark.parametrize(
    ("text", "image", "kept"),
    [
        (12, 12, ((0, 2, 4, 6, 8, 10, 12), (0, 2, 4, 6, 8, 10, 12))),
        (24, 12, ((0, 4, 8, 12, 16, 20, 24), (0, 2, 4, 6, 8, 10, 12))),
        (6, 12, ((0, 2, 4, 6), (0, 4, 8, 12))),
        (5, 12, ((0, 2, 4), (0, 6, 12))),
        (1, 12, ((0,), (12,))),
    ],
)
def test_layers_are_grouped_to_as_many_blocks(text: int, image: int, kept: tuple) -> None:
    shapes = {"text": Shape(8, text), "image": Shape(8, image)}
    assert IISAN().kept_of(shapes) == {"text": kept[0], "image": kept[1]}
    # Without the network that reads both, neither side minds the other.
    assert IISAN(inter=False).kept_of(shapes)["image"] == (0, 2, 4, 6, 8, 10, 12)


def test_unequal_widths_cost_a_linear_map_for_each_narrower_width() -> None:
    def count(text: Shape, image: Shape) -> int:
        return sum(p.numel() for p in IISAN(bottleneck=4).network({"text": text, "image": image}, 16).parameters())

    def network(width: int) -> int:
        return 3 * (width * 4 + 4 + 4 * width + width + 1) + width * width + width + width * 16 + 16

    fuse = 48 * 16 + 16
    flat = network(32) + network(24) + network(32) + (24 * 32 + 32) + fuse
    assert count(Shape(32, 4), Shape(24, 4)) == count(Shape(24, 4), Shape(32, 4)) == flat
    # Stages of 8, 16 and 24: the intra-modal network maps the first two to 24, the inter-modal one all three to 32.
    staged = Shape(24, 4, (8, 8, 16, 24, 24))
    maps = sum(w * 24 + 24 for w in (8, 16)) + sum(w * 32 + 32 for w in (8, 16, 24))
    assert count(Shape(32, 4), staged) == network(32) + network(24) + network(32) + maps + fuse


def test_zeros_behind_narrow_states_are_not_looked_at() -> None:
    shapes = {"text": Shape(32, 4), "image": Shape(24, 4, (8, 8, 16, 24, 24))}
    network = IISAN(bottleneck=4).network(shapes, 16)
    states = {"text": torch.randn(3, 3, 32), "image": torch.randn(3, 3, 24)}
    states["image"][:, 0, 8:] = states["image"][:, 1, 16:] = 0
    before = network(states)
    states["image"][:, 0, 8:] = states["image"][:, 1, 16:] = 7
    assert torch.equal(network(states), before)
    states["image"][:, 0, :8] = 7
    assert not torch.equal(network(states), before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lrr": 1.0}, "unknown option 'lrr'; did you mean 'lr'"),
        ({"lr": 0.0}, "lr: must be above 0"),
        ({"bottleneck": "x"}, "option bottleneck"),
        ({"intra": False, "inter": False}, "at least one must be true"),
        ({"activation": "tanh"}, "option activation"),
    ],
)
def test_wrong_options_are_named(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_method(MethodConfig("iisan", "iisan", options), "my.toml")
