"""Number of operators of a training step: about the number of kernels that a GPU is asked to run for it.

A small step takes as long as the launching of its operators, however fast the device is. The number shows this without
a GPU and is the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"})
_UNSAFE_VIEW = "_unsafe_view"  # a view that the dispatcher does not mark as one


def count_operators(step: Callable[[], object]) -> int:
    """Run `step` once and count the operators that reach the backend of its device.

    These are operators below autograd and autocast, so casts and the backward pass are among them. Not counted are
    views, allocations without values, and operators without tensors, such as marks for the profiler: none of them
    starts a kernel. An operator may still start several kernels, and devices differ: attention with dropout is one
    operator on CUDA and about ten on a CPU.

    Args:
        step: a whole training step; it may change weights and optimizer state.
    """
    with _Counter() as counter:
        step()
    return counter.count


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not (func.is_view or name in _ALLOCATIONS or name == _UNSAFE_VIEW):
            self.count += any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs, result)))
        return result
