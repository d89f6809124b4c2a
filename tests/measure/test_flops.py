"""The FLOP count against products counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention

from bench.measure.flops import Flops, count_flops


def test_a_perceptron_by_hand() -> None:
    m, k, n, out = 7, 5, 11, 3
    model = nn.Sequential(nn.Linear(k, n), nn.ReLU(), nn.Linear(n, out))
    x = torch.zeros(m, k)
    flops = count_flops(lambda: model(x).sum())
    first, second = 2 * m * n * k, 2 * m * out * n
    # Backward: both weights' gradients and the gradient of the hidden layer; x itself needs none.
    assert flops == Flops(forward=first + second, backward=first + 2 * second)


def test_a_frozen_layer_has_only_the_pass_through_it() -> None:
    m, k, n, out = 7, 5, 11, 3
    lower, upper = nn.Linear(k, n), nn.Linear(n, out)
    upper.requires_grad_(False)
    x = torch.zeros(m, k)
    flops = count_flops(lambda: upper(lower(x)).sum())
    assert flops.backward == 2 * m * out * n + 2 * m * n * k
    lower.requires_grad_(False)
    flops = count_flops(lambda: upper(lower(x)).sum())
    assert flops == Flops(forward=2 * m * n * k + 2 * m * out * n, backward=0)


@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_by_hand(masked: bool) -> None:
    batch, heads, queries, keys, width = 2, 3, 7, 9, 8
    q = torch.zeros(batch, heads, queries, width, requires_grad=True)
    k = torch.zeros(batch, heads, keys, width, requires_grad=True)
    v = torch.zeros(batch, heads, keys, width, requires_grad=True)
    mask = torch.zeros(batch, 1, queries, keys) if masked else None
    flops = count_flops(lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask).sum())
    product = 2 * batch * heads * queries * keys * width
    # Scores and mix; backward: scores again, and a gradient each for query, key, value and the weights.
    assert flops == Flops(forward=2 * product, backward=5 * product)


def test_eager_attention_by_hand() -> None:
    q = torch.zeros(2, 3, 7, 8, requires_grad=True)
    flops = count_flops(lambda: ((q @ q.transpose(-1, -2)).softmax(-1) @ q).sum())
    product = 2 * 2 * 3 * 7 * 7 * 8
    assert flops == Flops(forward=2 * product, backward=4 * product)


def test_a_convolution_by_hand() -> None:
    patches = nn.Conv2d(3, 16, kernel_size=4, stride=4)
    pictures = torch.zeros(5, 3, 8, 12)
    flops = count_flops(lambda: patches(pictures).sum())
    product = 2 * 5 * (2 * 3) * 16 * (3 * 4 * 4)
    assert flops == Flops(forward=product, backward=product)


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda: (torch.zeros(4, 5) @ torch.zeros(5)).sum(), 2 * 4 * 5),
        (lambda: torch.addmv(torch.zeros(4), torch.zeros(4, 5), torch.zeros(5)).sum(), 2 * 4 * 5),
        (lambda: torch.zeros(5) @ torch.zeros(5), 2 * 5),
        (lambda: torch.addbmm(torch.zeros(3, 6), torch.zeros(2, 3, 4), torch.zeros(2, 4, 6)).sum(), 2 * 2 * 3 * 4 * 6),
        (lambda: torch.zeros(9, 9).exp().sum(), 0),
    ],
)
def test_products_with_vectors_count_and_elementwise_work_does_not(
    forward: Callable[[], Tensor], expected: int
) -> None:
    assert count_flops(forward) == Flops(forward=expected, backward=0)


def test_fake_tensors_give_the_same_count() -> None:
    def step() -> Tensor:
        model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        loss: Tensor = model(torch.zeros(3, 6, 16)).sum()
        return loss

    real = count_flops(step)
    with FakeTensorMode():
        assert count_flops(step) == real
    assert real.forward > 0


def test_a_loss_of_several_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\)"):
        count_flops(lambda: torch.zeros(2))
