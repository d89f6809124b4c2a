"""IISAN, user encoder and loss against what the authors' released code computes for tensors given by formula."""

import json
import math
from pathlib import Path

import pytest
import torch

from bench.models.recommender import Recommender, UserEncoder, sequence_loss
from methods.base import Shape
from methods.iisan import IISAN

GOLDEN = json.loads((Path(__file__).parent / "iisan_golden.json").read_text())
SHAPES = {"text": Shape(768, 12), "image": Shape(768, 12)}


def our_name(role: str) -> str:
    """The golden role of a parameter as a name in this project."""
    role = role.replace(".gate", ".theta")
    network, _, rest = role.partition(".")
    if network == "user":
        rest = rest.replace("position.weight", "positions")
        return "user_encoder." + (f"blocks.{rest}" if rest[0].isdigit() else rest)
    if network == "fuse":
        return f"item_encoder.{role}"
    where = "inter" if network == "inter" else f"intra.{network}"
    return f"item_encoder.{where}." + (f"blocks.{rest}" if rest[0].isdigit() else rest)


def fill(model: torch.nn.Module, dtype: torch.dtype) -> None:
    named = dict(model.named_parameters())
    assert {our_name(role) for role in GOLDEN["order"]} == set(named)
    for k, role in enumerate(GOLDEN["order"]):
        parameter = named[our_name(role)]
        i = torch.arange(parameter.numel(), dtype=torch.float64)
        v = 0.05 * torch.sin(0.37 * GOLDEN["constant"] * i + k)
        if role.endswith(".gate"):
            v = 2 * v
        elif "norm" in role and role.endswith("weight"):
            v = 1 + v
        parameter.data = v.view(parameter.shape).to(dtype)


def states(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    n = torch.arange(1, 13, dtype=torch.float64)[:, None, None]
    layer = torch.arange(0, 13, 2, dtype=torch.float64)[None, :, None]
    j = torch.arange(768, dtype=torch.float64)[None, None]
    return {
        "text": torch.sin(1.7 * n + 0.9 * layer + 0.013 * j).to(dtype),
        "image": torch.cos(1.3 * n + 0.7 * layer + 0.017 * j).to(dtype),
    }


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_golden(activation: str, dtype: torch.dtype, tolerance: float) -> None:
    options = IISAN(activation=activation)  # type: ignore[arg-type]
    model = Recommender(options.network(SHAPES, 64), UserEncoder()).to(dtype).eval()
    fill(model, dtype)
    assert sum(p.numel() for p in model.parameters()) == GOLDEN["parameters"]
    expected = GOLDEN[activation]

    vectors = model.item_encoder(states(dtype))
    first8 = torch.tensor([expected["item_vectors_first8"][str(n)] for n in range(1, 13)], dtype=dtype)
    assert torch.allclose(vectors[:, :8], first8, atol=tolerance, rtol=0)
    assert math.isclose(vectors.sum().item(), expected["item_vectors_sum"], abs_tol=tolerance * 768)
    assert math.isclose(vectors.square().sum().item(), expected["item_vectors_square_sum"], abs_tol=tolerance * 768)

    items = torch.full((3, 11), -1)
    for row, sequence in enumerate(GOLDEN["sequences"]):
        items[row, 11 - len(sequence) :] = torch.tensor(sequence) - 1
    user = model.user_states(vectors, items[:, :-1])
    assert torch.allclose(
        user[:, -1, :8], torch.tensor(expected["user_last_first8"], dtype=dtype), atol=tolerance, rtol=0
    )
    scores = user[:, -1] @ vectors.T
    assert torch.allclose(scores, torch.tensor(expected["next_scores"], dtype=dtype), atol=tolerance * 10, rtol=0)

    counts = torch.bincount(items[items >= 0], minlength=12).to(dtype)
    positions = torch.nonzero((items[:, :-1] >= 0).flatten())[:, 0]
    loss = sequence_loss(user, vectors, items, positions, (counts / counts.sum()).log())
    assert math.isclose(loss.item(), expected["loss"], abs_tol=tolerance)
