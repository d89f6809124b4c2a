"""Number of operators against counts by hand."""

import torch
from torch import nn

from bench.measure.operators import count_operators


def test_each_product_and_sum_is_one() -> None:
    x, y = torch.ones(3, 3), torch.ones(3, 3)
    assert count_operators(lambda: x @ y + y) == 2


def test_views_allocations_and_marks_are_none() -> None:
    x = torch.ones(2, 6)

    def step() -> None:
        x.view(3, 4).t()[0].unsqueeze(0)
        torch.empty(5)
        torch.empty_like(x)
        with torch.profiler.record_function("mark"):
            torch.promote_types(torch.float16, torch.float32)

    assert count_operators(step) == 0


def test_a_step_of_a_linear_map_by_hand() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)
    layer(x).sum().backward()

    def step() -> None:
        # forward: addmm, sum; backward: a gradient of one, mm for the weight, sum for the bias
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    assert count_operators(step) == 5


def test_autocast_adds_the_casts() -> None:
    layer, x = nn.Linear(4, 2), torch.randn(3, 4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            layer(x)

    assert count_operators(step) == 1 + 3  # x, weight and bias


def test_an_update_in_place_counts() -> None:
    parameters = [torch.ones(2) for _ in range(4)]
    assert count_operators(lambda: torch._foreach_add_(parameters, 1.0)) == 1
