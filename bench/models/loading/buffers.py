"""Values of buffers that are in no checkpoint, such as the frequencies of rotary positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def restore_buffers(model: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Give buffers that are in no checkpoint the values that the model's own code computes for them.

    transformers 5 fills them with whatever lies in memory and leaves it to each family's code to compute them again,
    which code that was written for transformers 4 does not do.

    Args:
        model: the loaded model, changed in place.
        build: builds the same model without a checkpoint.
    """
    stored = model.state_dict().keys()
    missing = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    if not missing:
        return
    with torch.random.fork_rng(devices=[]), _parameters_without_memory():
        fresh = dict(build().named_buffers())
    for name, buffer in missing.items():
        if name in fresh and fresh[name].shape == buffer.shape:
            buffer.copy_(fresh[name])


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Put parameters on the meta device as they are registered; buffers are computed as usual."""
    original = nn.Module.register_parameter

    def register(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        original(module, name, parameter)
        if parameter is not None:
            meta: Any = parameter.to("meta")
            module._parameters[name] = nn.Parameter(meta, requires_grad=parameter.requires_grad)

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]
