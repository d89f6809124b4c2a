"""The account of live tensors: how many bytes a training step holds at its peak, and what they are for.

The account follows storages, not allocations: it adds the bytes of a storage when an operation first returns it and
takes them off when the storage dies. So it knows neither of an allocator's rounding and caching nor of a driver, and
gives the same number on the CPU, on CUDA and under fake tensors, run after run. What an allocator really took on
CUDA stands beside it (`allocator_peaks`): it is larger by rounding, workspaces of kernels and fragmentation.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from bench.models.quantisation import storage_tensors

Kind: TypeAlias = Literal["parameters", "gradients", "optimizer", "activations", "cache", "rest"]

# A storage can be several things: a parameter is saved for backward too, and a gradient is a temporary until it is
# stored. It is booked, for the whole of its life, under the first of these that it ever was.
_FIRST_MATCH: tuple[Kind, ...] = ("parameters", "cache", "gradients", "optimizer", "activations", "rest")
_RANK = {kind: rank for rank, kind in enumerate(_FIRST_MATCH)}


@dataclass(frozen=True)
class MemoryAccount:
    """Bytes of live tensors at the peak; the six parts add up to `peak_bytes`.

    `parameters` includes buffers, `activations` is what autograd saved for backward, `rest` is everything else:
    temporaries, gradients of activations, inputs.
    """

    peak_bytes: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    cache: int
    rest: int

    def as_dict(self) -> dict[str, int]:
        """The `memory` entry of a record."""
        return asdict(self)


class AllocatorPeaks(NamedTuple):
    """Peaks of torch's caching allocator in bytes; None on a device that has none."""

    allocated: int | None
    reserved: int | None


def account(
    step: Callable[[], object],
    *,
    modules: Iterable[nn.Module],
    optimizer: Optimizer | None = None,
    known: Mapping[Kind, Iterable[Tensor]] | None = None,
    ignored: Iterable[Tensor] = (),
    device: torch.device | None = None,
    steps: int = 2,
) -> MemoryAccount:
    """Runs `step` a few times and accounts for the tensors that are live at the peak.

    Parameters, buffers and gradients are those of `modules`, optimizer state is that of `optimizer`; what exists
    of them beforehand is counted from the start and what appears is recognised when it does. Two steps, because the
    first has no optimizer state until its end. Inside a fake-tensor mode it must be entered before this is called.

    Cyclic garbage is collected between steps and never within one: when Python would do it depends on how much else
    it has allocated, and the account would no longer be the same from run to run.

    Args:
        step: a whole training step, zeroing of gradients included. It may change weights and optimizer state.
        modules: everything with parameters or buffers on the device, frozen parts included.
        optimizer: the one that `step` steps.
        known: further tensors that exist beforehand, by what they are; each counts with its whole storage and stays
            what it is declared to be. A batch that is made outside `step` belongs under "rest".
        ignored: tensors whose storages are left out, such as arrays mapped from a file: a view of one, taken in the
            step, would count the whole file.
        device: only storages on it count. The device of the first parameter if None.
        steps: how often to run `step`.

    Returns:
        the peak over all steps and its parts.

    Raises:
        ValueError: if `steps` is not positive, or `known` has a kind that there is not.
    """
    if steps < 1:
        raise ValueError(f"steps must be positive, not {steps}")
    modules = tuple(modules)
    ledger = _Ledger(device if device is not None else _device_of(modules), ignored)
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            for part in storage_tensors(tensor):
                ledger.book(part, "parameters")
    for kind, tensors in (known or {}).items():
        for tensor in tensors:
            ledger.book(tensor, kind)
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


def reset_allocator_peaks(device: torch.device) -> None:
    """Starts the allocator's peaks afresh, after warm-up; nothing to do on the CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def allocator_peaks(device: torch.device) -> AllocatorPeaks:
    """Peaks of allocated and reserved bytes since the last reset."""
    if device.type != "cuda":
        return AllocatorPeaks(None, None)
    return AllocatorPeaks(torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device))


class _Entry:
    """One storage of one size: alive at the moments `born` to `died`, both included."""

    __slots__ = ("born", "died", "kind", "nbytes", "settled")

    def __init__(self, nbytes: int, born: int, kind: Kind) -> None:
        self.nbytes, self.born, self.kind = nbytes, born, kind
        self.died: int | None = None
        self.settled = False


class _Ledger(TorchDispatchMode):  # torch leaves it unannotated
    """Every storage that operations return, with its time of life; a moment is the end of an operation.

    The split is made at the end and not as it goes, since a storage that is live at the peak may only later turn
    out to be a gradient or an optimizer's state.
    """

    def __init__(self, device: torch.device, ignored: Iterable[Tensor]) -> None:
        super().__init__()
        self._device = device
        # Held, so that no storage can be born at the address of an ignored one.
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
        self._see(result)
        self._measure()
        return result

    def book(self, tensor: Tensor, kind: Kind) -> None:
        """Books the storage under `kind`, unless it is something that goes before; enters it if it is new."""
        if kind not in _RANK:
            raise ValueError(f"no kind of memory is called {kind!r}; there are {', '.join(_FIRST_MATCH)}")
        # A moment of its own: what has died since the last operation is not there together with what is new.
        self._now += 1
        entry = self._enter(tensor)
        if entry is not None and not entry.settled and _RANK[kind] < _RANK[entry.kind]:
            entry.kind = kind
        self._measure()

    def settle(self) -> None:
        """Keeps what has been booked so far where it is: a declared input stays one when backward needs it."""
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
        parts = dict.fromkeys(_FIRST_MATCH, 0)
        for entry in self._entries:
            if entry.born <= self._peak_at and (entry.died is None or entry.died >= self._peak_at):
                parts[entry.kind] += entry.nbytes
        return MemoryAccount(peak_bytes=self._peak, **parts)

    def _see(self, result: object) -> None:
        if isinstance(result, Tensor):
            self._enter(result)
        elif isinstance(result, (tuple, list)):
            for part in result:
                self._see(part)

    def _enter(self, tensor: Tensor) -> _Entry | None:
        """The entry of the tensor's storage, made if there is none; None for a storage that does not count."""
        device = tensor.device
        if device.type != self._device.type or self._device.index not in (None, device.index):
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._ignored:
            return None
        found = self._live.get(key)
        if found is None:
            return self._add(storage, "rest")
        entry = found[0]
        if entry.nbytes == storage.nbytes():
            return entry
        entry.died = self._now - 1
        self._bytes -= entry.nbytes
        return self._add(storage, entry.kind)

    def _add(self, storage: torch.UntypedStorage, kind: Kind) -> _Entry:
        key = storage._cdata
        entry = _Entry(storage.nbytes(), self._now, kind)

        def bury(_: object) -> None:
            entry.died = self._now
            self._bytes -= entry.nbytes
            del self._live[key]

        self._live[key] = (entry, weakref.ref(storage, bury))
        self._entries.append(entry)
        self._bytes += entry.nbytes
        return entry

    def _measure(self) -> None:
        if self._bytes > self._peak:
            self._peak, self._peak_at = self._bytes, self._now


@contextmanager
def _recognising(ledger: _Ledger, parameters: Iterable[Tensor], optimizer: Optimizer | None) -> Iterator[None]:
    """Tells the ledger what becomes a gradient, an optimizer's state, or is saved for backward."""

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
    """Leaves the collector off, and what exists already out of the collections asked for meanwhile: they are quick."""
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
