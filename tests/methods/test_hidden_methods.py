"""Ladder Side Tuning and the linear probe: sizes by formula, values written out a second time."""

import math

import pytest
import torch
import torch.nn.functional as F

from bench.config.matrix import MethodConfig, build_method
from bench.utils.errors import UserError
from methods.base import Shape, chosen_layers
from methods.linear_probe import LinearProbe
from methods.lst import LST, Rung

SHAPES = {"text": Shape(24, 4), "image": Shape(40, 6)}
D = 16


def linear(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out


def count(method) -> int:  # type: ignore[no-untyped-def]
    network = method.network(SHAPES, D)
    groups = method.split(network)
    declared = [id(p) for group in groups for p in group.parameters]
    assert sorted(declared) == sorted(id(p) for p in network.parameters())
    return sum(group.count for group in groups)


@pytest.mark.parametrize("layers", ["all", "even", (0, 3), (2,)])
@pytest.mark.parametrize("r", [1, 8])
def test_ladder_parameters(layers, r: int) -> None:  # type: ignore[no-untyped-def]
    expected = linear(2 * D, D)
    for shape in SHAPES.values():
        n = (
            {"all": shape.depth + 1, "even": shape.depth // 2 + 1}.get(layers)
            if isinstance(layers, str)
            else len(layers)
        )
        assert n is not None
        rung = 1 + 2 * r + linear(r, 4 * r) + linear(4 * r, r)
        expected += n * linear(shape.width, r) + (n - 1) * rung + 2 * r + linear(r, D)
    assert count(LST(layers=layers, bottleneck=r)) == expected


def test_probe_parameters() -> None:
    ends = linear(24, D) + linear(40, D) + linear(2 * D, D)
    assert count(LinearProbe()) == 5 + 7 + ends
    assert count(LinearProbe(layers="even")) == 3 + 4 + ends
    assert count(LinearProbe(layers=(1, 4))) == 2 + 2 + ends


def test_a_rung_written_out() -> None:
    torch.manual_seed(0)
    rung = Rung(width=6, bottleneck=3)
    with torch.no_grad():
        rung.theta.fill_(0.05)
    h, state = torch.randn(4, 3), torch.randn(4, 6)
    g = 1 / (1 + math.exp(-0.5))
    x = g * F.linear(state, rung.down.weight, rung.down.bias) + (1 - g) * h
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    inner = normed @ rung.inner.weight.T + rung.inner.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    assert torch.allclose(rung(h, state), x + inner @ rung.outer.weight.T + rung.outer.bias, atol=1e-6)


def test_the_ladder_climbs_from_the_lowest_layer_to_the_highest() -> None:
    torch.manual_seed(0)
    ladder = LST(bottleneck=3).network({"text": Shape(6, 2)}, D).ladders["text"]
    states = torch.randn(5, 3, 6)
    h = ladder.rungs[1](ladder.rungs[0](ladder.foot(states[:, 0]), states[:, 1]), states[:, 2])
    assert torch.equal(ladder(states), ladder.norm(h))


def test_the_probe_starts_as_the_mean_and_can_pick_a_layer() -> None:
    network = LinearProbe().network({"text": Shape(6, 2)}, D)
    states = torch.randn(5, 3, 6)
    assert torch.allclose(network({"text": states}), network.head({"text": states.mean(1)}), atol=1e-6)
    with torch.no_grad():
        network.theta["text"][1] = 50.0
    assert torch.allclose(network({"text": states}), network.head({"text": states[:, 1]}), atol=1e-6)


def test_layers() -> None:
    assert chosen_layers("all", Shape(8, 3)) == (0, 1, 2, 3)
    assert chosen_layers("even", Shape(8, 3)) == (0, 2)
    assert chosen_layers((3, 1), Shape(8, 3)) == (3, 1)
    for wrong in ((0, 4), (-1,), ()):
        with pytest.raises(UserError, match="a backbone of 3 layers has the layers 0 to 3"):
            chosen_layers(wrong, Shape(8, 3))


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("lora", {"rank": 0}, "option rank: .* greater than or equal to 1, got 0"),
        ("lst", {"bottleneck": -1}, "option bottleneck: .* greater than or equal to 1, got -1"),
        ("lst", {"layers": "odd"}, "option layers"),
        ("linear-probe", {"lr": math.inf}, "option lr: must be above 0 and finite"),
    ],
)
def test_impossible_options(kind: str, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_method(MethodConfig(kind, kind, options), "my.toml")
