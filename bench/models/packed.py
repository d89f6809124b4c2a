"""Quantised weights as parameters: what is in memory of them, and how many values they stand for.

torchao's are tensors made of several; bitsandbytes' are packed bytes that carry the state of their quantisation as an
attribute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from bench.utils.errors import UserError


def is_quantised(parameter: Tensor) -> bool:
    """Whether the parameter is a quantised weight."""
    return is_traceable_wrapper_subclass(parameter) or getattr(parameter, "quant_state", None) is not None


def parts(parameter: Tensor) -> list[Tensor]:
    """What is in memory of a parameter or buffer: itself, or the numbers and scales of a quantised weight."""
    if is_traceable_wrapper_subclass(parameter):
        names, _ = parameter.__tensor_flatten__()
        return [getattr(parameter, name) for name in names]
    state = getattr(parameter, "quant_state", None)
    return [parameter] if state is None else [parameter, state.absmax, state.code]


def count_values(parameters: Iterable[Tensor]) -> int:
    """How many weights there are, packed ones included."""
    states = ((p, getattr(p, "quant_state", None)) for p in parameters)
    return sum(p.numel() if state is None else state.shape.numel() for p, state in states)


def check_adapted(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Looks at a quantised model that a method has adapted, and at what the method wants to train of it.

    Raises:
        UserError: weights that are quantised, biases that bitsandbytes keeps in 16 bit, or something of the method's
            own that has taken its type from packed weights and holds no fractions.
    """
    if not any(is_quantised(p) for p in model.parameters()):
        return
    if any(t.dtype == torch.uint8 and not is_quantised(t) for t in (*model.parameters(), *model.buffers())):
        raise UserError("takes packed weights for numbers; leave the method out, or --quantise")
    for parameter in trained:
        if is_quantised(parameter):
            raise UserError("trains weights that are quantised; leave the method out, or --quantise")
        if parameter.dtype != torch.float32:
            raise UserError("trains biases that bitsandbytes keeps in 16 bit; use --precision fp32, or torchao-int8")


def to_empty(model: nn.Module, device: torch.device) -> None:
    """As ``model.to_empty``, of a model with quantised weights too; they are parameters of no class of their own then.

    Under a fake-tensor mode the libraries' classes cannot be made, and their layers do not ask for them.
    """
    weights = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if is_quantised(parameter)
    ]
    for module, name, _ in weights:
        setattr(module, name, None)
    model.to_empty(device=device)
    for module, name, parameter in weights:
        setattr(module, name, _emptied(parameter, device))


def _emptied(parameter: Any, device: torch.device) -> nn.Parameter:
    def empty(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    if is_traceable_wrapper_subclass(parameter):
        names, context = parameter.__tensor_flatten__()
        inner = {name: empty(getattr(parameter, name)) for name in names}
        whole = type(parameter).__tensor_unflatten__(inner, context, parameter.shape, parameter.stride())
        return nn.Parameter(whole, requires_grad=False)
    state = parameter.quant_state
    state.absmax, state.code = empty(state.absmax), empty(state.code)
    made: Any = nn.Parameter(empty(parameter), requires_grad=False)
    made.quant_state = state
    return made
