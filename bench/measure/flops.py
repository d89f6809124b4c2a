"""Floating-point operations (FLOPs) of the matrix products, convolutions and attentions of a training step.

Counted by torch's counter; a multiplication and an addition are two operations. Elementwise operations, softmax, norms
and the optimizer are not counted, as is usual: they are bound by memory bandwidth, not by arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of the forward and the backward pass of one step."""

    forward: int
    backward: int


def count_flops(forward: Callable[[], Tensor]) -> Flops:
    """Run `forward` and the backward pass of its result, and count the operations of each.

    Works on real and on fake tensors. Gradients are added to those that the parameters hold: zero them before training
    continues. Attention kernels recompute the scores in the backward pass, and this is counted, so the backward pass of
    `sdpa` has five products per attention and that of eager attention four.

    Args:
        forward: returns the loss, a single number; the backward pass is skipped if it requires no gradient.

    Raises:
        ValueError: `forward` returns more than one number.
    """
    with FlopCounterMode(display=False, custom_mapping=_FURTHER_FORMULAS) as forward_counter:
        loss = forward()
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, not a tensor of shape {tuple(loss.shape)}")
    with FlopCounterMode(display=False, custom_mapping=_FURTHER_FORMULAS) as backward_counter:
        if loss.requires_grad:
            loss.backward()
    return Flops(forward=forward_counter.get_total_flops(), backward=backward_counter.get_total_flops())


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


def _matrix_vector(matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * prod(matrix)


def _add_matrix_vector(start: Shape, matrix: Shape, vector: Shape, **_: Any) -> int:
    return 2 * prod(matrix)


def _dot(left: Shape, right: Shape, **_: Any) -> int:
    return 2 * prod(left)


def _add_batches(start: Shape, left: Shape, right: Shape, **_: Any) -> int:
    return 2 * prod(left) * right[-1]


# Operations that torch's counter counts as free (seen with 2.13): the attention kernel of the CPU (those of CUDA are
# counted), products with a vector, and the sum over a batch of products.
_FURTHER_FORMULAS: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _add_matrix_vector,
    torch.ops.aten.dot: _dot,
    torch.ops.aten.addbmm: _add_batches,
}
