"""Floating-point operations of a step: what its matrix products, convolutions and attentions take.

Counted with torch's counter, a multiplication and an addition as two. Elementwise work, softmax, norms and the
optimizer are left out, as is usual: they are bound by memory and not by arithmetic.
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
    """Runs `forward` and the backward pass of what it returns, and counts each.

    Works on real and on fake tensors alike. The gradients of the backward pass are added to what the parameters hold:
    zero them before training goes on. Attention kernels compute the scores again in backward, and that is counted;
    so the backward pass of `sdpa` counts five products where that of eager attention counts four.

    Args:
        forward: returns the loss, one number. A loss that nothing trainable went into has no backward pass.

    Returns:
        the operations of each pass.

    Raises:
        ValueError: if `forward` returns more than one number.
    """
    with FlopCounterMode(display=False, custom_mapping=_MISSED) as there:
        loss = forward()
    if loss.numel() != 1:
        raise ValueError(f"the loss must be one number, not a tensor of shape {tuple(loss.shape)}")
    with FlopCounterMode(display=False, custom_mapping=_MISSED) as back:
        if loss.requires_grad:
            loss.backward()
    return Flops(forward=there.get_total_flops(), backward=back.get_total_flops())


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


# What torch's counter lets pass as free (seen with 2.13). It knows the attention kernels of CUDA and not the one of
# the CPU, so that a step would seem to cost less there; and of the products it knows neither those with a vector nor
# the sum over a batch of them.
_MISSED: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _add_matrix_vector,
    torch.ops.aten.dot: _dot,
    torch.ops.aten.addbmm: _add_batches,
}
