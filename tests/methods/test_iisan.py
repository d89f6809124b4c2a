"""IISAN's options: layers by name, sizes by formula, what the inter-modal network reads, what it tells of its gates."""

from typing import Any

import pytest
import torch

from bench.config.matrix import MethodConfig, build_method
from bench.utils.errors import UserError
from methods.base import ItemEncoder, Shape, chosen_layers
from methods.iisan import IISAN, Network

SHAPES = {"text": Shape(24, 12), "image": Shape(24, 12)}
D = 16
B = 4


def network(**options: Any) -> Network:
    torch.manual_seed(0)
    made = IISAN(bottleneck=B, **options).network(SHAPES, D)
    assert isinstance(made, Network)
    return made


def count(made: torch.nn.Module) -> int:
    return sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("all", list(range(13))),
        ("even", [0, 2, 4, 6, 8, 10, 12]),
        ("third", [0, 3, 6, 9, 12]),
        ("first-middle-last", [0, 6, 12]),
        ("last", [12]),
    ],
)
def test_layers_by_name(name: Any, kept: list[int]) -> None:
    assert list(chosen_layers(name, SHAPES["text"])) == kept
    method = build_method(MethodConfig("m", "iisan", {"layers": name}), "t")
    assert method.kept_of(SHAPES) == {"text": tuple(kept), "image": tuple(kept)}
    # A block less in each of the three networks: down, up, their biases and the gate.
    block = 2 * 24 * B + 24 + B + 1
    assert count(network(layers="all")) - count(network(layers=name)) == 3 * (13 - len(kept)) * block


def test_a_shallow_backbone_has_no_layer_twice() -> None:
    assert chosen_layers("first-middle-last", Shape(8, 1)) == (0, 1)
    assert chosen_layers("third", Shape(8, 2)) == (0,)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_the_inter_modal_network_can_read_one_modality(modality: str) -> None:
    made = network(inter_reads=modality)
    assert count(network()) - count(made) == 7  # the gates
    assert made.inter is not None
    states = {m: torch.randn(5, 7, 24) for m in SHAPES}
    other = "image" if modality == "text" else "text"
    with torch.no_grad():
        before = made.inter(states)
        h = torch.zeros(5, 24)
        for layer, block in enumerate(made.inter.blocks):
            x = h + states[modality][:, layer]
            h = x + block.up(torch.relu(block.down(x)))  # type: ignore[operator, union-attr]
        assert torch.allclose(before, made.inter.project(made.inter.out(h)), atol=1e-6)
        assert torch.equal(made.inter(states | {other: torch.randn(5, 7, 24)}), before)


def test_width_of_the_side_networks() -> None:
    def side(width: int, maps: int) -> int:
        block = 2 * width * B + width + B + 1
        return 7 * block + width * width + width + width * D + D + maps * (24 * width + width)

    last = 3 * D * D + D
    assert count(network(width=8)) == 2 * side(8, 1) + side(8, 2) + last
    assert count(network(width=24)) == count(network()) == 3 * side(24, 0) + last
    states = {m: torch.randn(5, 7, 24) for m in SHAPES}
    assert network(width=8)(states).shape == (5, D)


def test_inter_reads_needs_the_network() -> None:
    with pytest.raises(UserError, match="inter_reads"):
        IISAN(inter=False, inter_reads="text")


def test_what_it_tells_of_its_gates() -> None:
    method = IISAN(bottleneck=B)
    encoder = method.build(torch.nn.Identity(), SHAPES, D)
    assert isinstance(encoder, ItemEncoder)
    told = encoder.observe()
    assert list(told) == [
        "image: layer (1) or earlier (0)",
        "text: layer (1) or earlier (0)",
        "inter-modal: image (1) or text (0)",
    ]
    assert all(values == [0.5] * 7 for values in told.values())
    inter = encoder.head.inter
    with torch.no_grad():
        inter.blocks[2].theta.fill_(0.1)  # type: ignore[union-attr, index]
    assert encoder.observe()["inter-modal: image (1) or text (0)"][2] == pytest.approx(0.7310586)
    # A gate of one is the picture alone: the network then does not see the text.
    with torch.no_grad():
        for block in inter.blocks:  # type: ignore[union-attr]
            block.theta.fill_(1e3)
        states = {m: torch.randn(5, 7, 24) for m in SHAPES}
        assert torch.allclose(inter(states), inter(states | {"text": torch.randn(5, 7, 24)}))  # type: ignore[operator]


def test_without_gates_it_tells_nothing() -> None:
    assert IISAN(gated=False).build(torch.nn.Identity(), SHAPES, D).observe() == {}
