"""Memory account: bytes of the tensors that are live at the peak of a training step, by what they are used for.

The account follows storages, not allocations: it adds the bytes of a storage when an operation first returns it and
subtracts them when the storage is freed. It is independent of an allocator's rounding and caching and of the driver,
so it gives the same number on the CPU, on CUDA and under fake tensors, in every run. The peaks of torch's CUDA
allocator (`allocator_peaks`) are larger by rounding, workspaces of kernels and fragmentation.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from bench.models.quantisation import storage_tensors
from bench.records.columns import MEMORY_PARTS, MemoryPart

# A storage can be several parts: a parameter is also saved for backward, and a gradient is a temporary until it is
# stored. For its whole life it counts as the first part of this list that it ever was.
_PRECEDENCE = sorted(MEMORY_PARTS, key=lambda part: part not in ("parameters", "cache"))
_RANK = {part: rank for rank, part in enumerate(_PRECEDENCE)}


@dataclass(frozen=True)
class MemoryAccount:
    """Bytes of live tensors at the peak of a step; the parts add up to `peak_bytes`.

    `parameters` includes buffers, `activations` are tensors that autograd saved for the backward pass, and `rest` is
    everything else: temporaries, gradients of activations, inputs.
    """

    peak_bytes: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    cache: int
    rest: int

    def as_dict(self) -> dict[str, int]:
        """Values for the `memory` entry of a record."""
        return asdict(self)


class AllocatorPeaks(NamedTuple):
    """Peaks of torch's caching allocator in bytes; None on a device without one."""

    allocated: int | None
    reserved: int | None


def account(
    step: Callable[[], object],
    *,
    modules: Iterable[nn.Module],
    optimizer: Optimizer | None = None,
    known: Mapping[MemoryPart, Iterable[Tensor]] | None = None,
    ignored: Iterable[Tensor] = (),
    device: torch.device | None = None,
    steps: int = 2,
) -> MemoryAccount:
    """Run `step` a few times and account for the tensors that are live at the peak.

    Parameters, buffers and gradients of `modules` and the state of `optimizer` are counted from the start if they
    exist, and otherwise when they appear. Two steps are needed, because the first has no optimizer state until its
    end. A fake-tensor mode must be entered before this function is called.

    Cyclic garbage is collected between steps and never within one: Python collects depending on how much else it has
    allocated, and the account would differ from run to run.

    Args:
        step: a whole training step, zeroing of gradients included. It may change weights and optimizer state.
        modules: all modules with parameters or buffers on the device, frozen ones included.
        optimizer: the optimizer that `step` uses.
        known: further tensors that exist before the step, by part; each counts with its whole storage and keeps its
            part. A batch that is made outside `step` belongs under "rest".
        ignored: tensors whose storages do not count, such as arrays mapped from a file: a view of such an array, taken
            in the step, would count the whole file.
        device: only storages on this device count; None for the device of the first parameter.
        steps: number of times that `step` is run.

    Returns:
        The peak over all steps and its parts.

    Raises:
        ValueError: `steps` is not positive, or `known` has an unknown part.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, not {steps}")
    modules = tuple(modules)
    ledger = _Ledger(device if device is not None else _device_of(modules), ignored)
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            for stored in storage_tensors(tensor):
                ledger.book(stored, "parameters")
    for part, tensors in (known or {}).items():
        for tensor in tensors:
            ledger.book(tensor, part)
    ledger.settle()
    parameters = [parameter for module in modules for parameter in module.parameters()]
    for parameter in parameters:
        ledger.book_gradient(parameter)
    if optimizer is not None:
        ledger.book_state(optimizer)
    with ExitStack() as stack:
        stack.enter_context(_no_cyclic_collection())
        stack.enter_context(_recognising(ledger, parameters, optimizer))
        stack.enter_context(ledger)
        for _ in range(steps):
            step()
            gc.collect()
    return ledger.at_peak()


def return_unused_memory(device: torch.device) -> None:
    """Collect garbage and give the blocks that the CUDA allocator keeps unused back to the driver.

    Without it the reserved peak of what comes next, and NVML's figure for the process, would be those of all before.
    Not for timed steps: they would have to ask the driver for memory again.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def reset_allocator_peaks(device: torch.device) -> None:
    """Reset the peaks of the CUDA allocator, after warm-up; does nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def allocator_peaks(device: torch.device) -> AllocatorPeaks:
    """Peaks of allocated and reserved bytes since the last reset; None on the CPU."""
    if device.type != "cuda":
        return AllocatorPeaks(None, None)
    return AllocatorPeaks(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


class _Entry:
    """One storage of one size, live at the moments `born` to `died`, both included."""

    __slots__ = ("born", "died", "nbytes", "part", "settled")

    def __init__(self, nbytes: int, born: int, part: MemoryPart) -> None:
        self.nbytes, self.born, self.part = nbytes, born, part
        self.died: int | None = None
        self.settled = False


class _Ledger(TorchDispatchMode):
    """All storages that operations return, with their lifetimes; a moment is the end of an operation.

    The split into parts is made at the end, because a storage that is live at the peak may become a gradient or the
    state of an optimizer only later.
    """

    def __init__(self, device: torch.device, ignored: Iterable[Tensor]) -> None:
        super().__init__()
        self._device = device
        # References are kept, so that no new storage gets the address of an ignored one.
        self._ignored = {storage._cdata: storage for storage in (tensor.untyped_storage() for tensor in ignored)}
        self._live: dict[int, tuple[_Entry, weakref.ref[torch.UntypedStorage]]] = {}
        self._entries: list[_Entry] = []
        self._now = 0
        self._bytes = 0
        self._peak = 0
        self._peak_at = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._now += 1
        self._enter_all(result)
        self._update_peak()
        return result

    def book(self, tensor: Tensor, part: MemoryPart) -> None:
        """Record a tensor's storage under `part`, unless its part so far has priority."""
        if part not in _RANK:
            raise ValueError(f"unknown part of memory {part!r}; the parts are {', '.join(MEMORY_PARTS)}")
        # A moment of its own, so that storages freed since the last operation do not overlap with a new one.
        self._now += 1
        entry = self._enter(tensor)
        if entry is not None and not entry.settled and _RANK[part] < _RANK[entry.part]:
            entry.part = part
        self._update_peak()

    def settle(self) -> None:
        """Fix the parts recorded so far: a declared input keeps its part even if it is saved for backward."""
        for entry in self._entries:
            entry.settled = True

    def book_gradient(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.book(parameter.grad, "gradients")

    def book_state(self, optimizer: Optimizer) -> None:
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self.book(value, "optimizer")

    def at_peak(self) -> MemoryAccount:
        sizes = dict.fromkeys(MEMORY_PARTS, 0)
        for entry in self._entries:
            if entry.born <= self._peak_at and (entry.died is None or entry.died >= self._peak_at):
                sizes[entry.part] += entry.nbytes
        return MemoryAccount(peak_bytes=self._peak, **sizes)

    def _enter_all(self, result: object) -> None:
        if isinstance(result, Tensor):
            self._enter(result)
        elif isinstance(result, (tuple, list)):
            for item in result:
                self._enter_all(item)

    def _enter(self, tensor: Tensor) -> _Entry | None:
        """Entry of the tensor's storage, added if it is new; None for a storage that does not count."""
        device = tensor.device
        if device.type != self._device.type or self._device.index not in (None, device.index):
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._ignored:
            return None
        if key not in self._live:
            return self._add(storage, "rest")
        entry, _ = self._live[key]
        if entry.nbytes == storage.nbytes():
            return entry
        # The storage was resized: the entry ends, and one with the new size begins.
        entry.died = self._now - 1
        self._bytes -= entry.nbytes
        return self._add(storage, entry.part)

    def _add(self, storage: torch.UntypedStorage, part: MemoryPart) -> _Entry:
        key = storage._cdata
        entry = _Entry(storage.nbytes(), self._now, part)

        def remove(_: object) -> None:
            entry.died = self._now
            self._bytes -= entry.nbytes
            del self._live[key]

        self._live[key] = (entry, weakref.ref(storage, remove))
        self._entries.append(entry)
        self._bytes += entry.nbytes
        return entry

    def _update_peak(self) -> None:
        if self._bytes > self._peak:
            self._peak, self._peak_at = self._bytes, self._now


@contextmanager
def _recognising(ledger: _Ledger, parameters: Iterable[Tensor], optimizer: Optimizer | None) -> Iterator[None]:
    """Record in the ledger which tensors become gradients or optimizer state or are saved for backward."""

    def pack(tensor: Tensor) -> Tensor:
        ledger.book(tensor, "activations")
        return tensor

    handles: list[Any] = [
        parameter.register_post_accumulate_grad_hook(ledger.book_gradient)
        for parameter in parameters
        if parameter.requires_grad
    ]
    if optimizer is not None:
        handles.append(optimizer.register_step_post_hook(lambda stepped, *_: ledger.book_state(stepped)))
    try:
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _no_cyclic_collection() -> Iterator[None]:
    """Turn off automatic garbage collection; explicit collections skip existing objects and are therefore fast."""
    enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()


def _device_of(modules: Iterable[nn.Module]) -> torch.device:
    for module in modules:
        for parameter in module.parameters():
            return parameter.device
    return torch.device("cpu")
