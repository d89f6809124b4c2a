"""One NVIDIA device: find it among NVML's devices, and read its current state from the driver.

CUDA and NVML number the cards differently (CUDA by speed and CUDA_VISIBLE_DEVICES, NVML by bus), so devices are matched
by UUID. A value that the driver does not support is None and is not queried again.

Sources: NVML API reference (memory info version 2, clock event reasons, MIG devices), CUDA programming guide
(environment variables).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

MemoryInfo: TypeAlias = Literal["v2", "v1"]

# NVML's error codes that a later call would give again: invalid argument (for the handle of a slice), not supported, no
# permission, function not found, version mismatch.
_FUNCTION_NOT_FOUND = 13
_FINAL = frozenset({2, 3, 4, _FUNCTION_NOT_FOUND, 25})
# The newest chip, by its compute capability, whose power reading is not a mean over a second.
_GA100 = (8, 0)
# NVML's mark of an unknown 64-bit value; newer bindings turn it into None.
_NOT_AVAILABLE = 2**64 - 1


class DeviceNotFoundError(LookupError):
    """NVML has no such device, or the device is ambiguous; the message says why."""


class SliceNotNamedError(DeviceNotFoundError):
    """The card is divided into slices (MIG), and which one is meant is not known; the message says how to name it."""


@dataclass(frozen=True)
class Device:
    """A card, or a slice of a card (MIG), in NVML.

    A card with `divided` is divided into slices, and CUDA computes on a slice only.

    Attributes:
        handle: NVML's handle.
        uuid: UUID of the device.
        card: UUID of the card; differs from `uuid` for a slice.
        names: names of the device that CUDA_VISIBLE_DEVICES accepts.
    """

    handle: Any
    uuid: str
    card: str
    names: tuple[str, ...]
    divided: bool = False

    @property
    def mig(self) -> bool:
        """True if the device is a slice of a card."""
        return self.uuid != self.card


@dataclass(frozen=True)
class Sample:
    """State of a device at one moment, in bytes, percent, watts, MHz, degrees Celsius, millijoules; None is unknown.

    `process` is the memory of this process and `used` that of all processes; `used` includes the memory reserved by
    the driver if `memory_info` is "v1", not if it is "v2". `others` is a lower bound of the number of other processes
    on the device. `doubt` says why what the driver reports of this process's memory is not used; None if there is no
    doubt or no report. `reasons` are NVML's clock event reasons as bits.
    """

    process: int | None
    others: int | None
    others_bytes: int | None
    doubt: str | None
    used: int | None
    reserved: int | None
    total: int | None
    memory_info: MemoryInfo | None
    utilisation: int | None
    power: float | None
    sm_clock: int | None
    temperature: int | None
    reasons: int | None
    energy: int | None


def find_device(
    pynvml: Any, visible: str | None, index: int, torch_uuid: str | None, *, pci_order: bool = False
) -> Device:
    """Find the NVML device of CUDA's device number `index`.

    Args:
        pynvml: the module, after `nvmlInit()`.
        visible: value of CUDA_VISIBLE_DEVICES; None if it is not set.
        index: CUDA's number, as in `cuda:1`.
        torch_uuid: `str(torch.cuda.get_device_properties(index).uuid)`, with or without `GPU-`; None if unknown.
        pci_order: True if CUDA_DEVICE_ORDER is PCI_BUS_ID, so that CUDA and NVML number devices alike.

    Raises:
        DeviceNotFoundError: no device fits, or more than one.
        SliceNotNamedError: the card is divided into slices, and the variable names none of several.
    """
    devices = list(_devices(pynvml))
    if not devices:
        raise DeviceNotFoundError("NVML sees no device")
    entries = None if visible is None else visible_entries(visible)
    entry = entries[index] if entries is not None and index < len(entries) else None
    if torch_uuid is not None:
        device = _with_uuid(devices, torch_uuid)
    elif entries is not None and entry is None:
        raise DeviceNotFoundError(f"CUDA_VISIBLE_DEVICES={visible} has no device number {index}")
    elif entry is not None and not entry.isdecimal():
        device = _named(devices, entry)
    else:
        device = _numbered([device for device in devices if not device.mig], int(entry or index), pci_order)
    # With some drivers torch reports the UUID of the card for a slice; the variable names the slice.
    return _slice_of(device, devices, entry) if device.divided else device


class Probe:
    """Reader of one device's state; remembers which values the driver does not support.

    Args:
        pynvml: the module, after `nvmlInit()`.
        device: as `find_device` found it.
        held: function that returns the bytes of the device that this process holds at least, None if unknown.
    """

    def __init__(self, pynvml: Any, device: Device, held: Callable[[], int | None] = lambda: None) -> None:
        self._nvml = pynvml
        self._held = held
        self._handle = device.handle
        self._unsupported: set[tuple[str, ...]] = set()
        self._errors = _errors(pynvml)
        self._has_instant_power = False
        self._capability: tuple[int, int] | None = None

    @property
    def power_is_instantaneous(self) -> bool:
        """True if the samples' power is that of the moment; False if it is a mean over a second, or may be."""
        return self._has_instant_power or (self._capability is not None and self._capability <= _GA100)

    def energy(self) -> int | None:
        """The card's energy counter in millijoules."""
        counter: int | None = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return counter

    def name(self) -> str | None:
        """Product name of the device."""
        name = self._ask("nvmlDeviceGetName")
        return None if name is None else _text(name)

    def sample(self) -> Sample:
        """Read all values that the driver reports."""
        used, reserved, total, version = self._memory()
        process, others, others_bytes, doubt = self._processes(total)
        utilisation = self._ask("nvmlDeviceGetUtilizationRates")
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return Sample(
            process=process,
            others=others,
            others_bytes=others_bytes,
            doubt=doubt,
            used=used,
            reserved=reserved,
            total=total,
            memory_info=version,
            utilisation=None if utilisation is None else utilisation.gpu,
            power=self.power(),
            sm_clock=self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            temperature=self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            reasons=reasons,
            energy=self.energy(),
        )

    def power(self) -> float | None:
        """Power in watts: that of the moment if the driver has the field, else the usual reading."""
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        if field is not None and not self._is_unsupported("instant power"):
            (value,) = self._ask("nvmlDeviceGetFieldValues", [field]) or (None,)
            if value is not None and value.nvmlReturn == 0:
                self._has_instant_power = True
                return int(value.value.uiVal) / 1000
            if value is None or value.nvmlReturn in _FINAL:
                self._unsupported.add(("instant power",))
        if self._has_instant_power:
            return None  # the two kinds must not be mixed
        if self._capability is None:
            self._capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return None if milliwatts is None else milliwatts / 1000

    def _processes(self, total: int | None) -> tuple[int | None, int | None, int | None, str | None]:
        """Memory of this process, number of other processes, their memory, and the doubt about the first."""
        held = self._held()
        compute = self._ask("nvmlDeviceGetComputeRunningProcesses")
        graphics = self._ask("nvmlDeviceGetGraphicsRunningProcesses")
        # Memory may have been freed while the driver was asked.
        held = min(held or 0, self._held() or 0)
        # A process can be in both lists, with the same memory.
        memory = {process.pid: process.usedGpuMemory for process in (*(graphics or ()), *(compute or ()))}
        if os.getpid() in memory:
            own = memory.pop(os.getpid())
            if own in (None, 0, _NOT_AVAILABLE):
                told = "0 bytes" if own == 0 else "no figure"
                return None, len(memory), _sum(list(memory.values())), f"the driver reports {told} for this process"
            # In a container the driver may list processes under the host's numbers, where ours is another process's.
            if own < held or (total is not None and own > total):
                limit = "less than torch holds" if own < held else "more than the device has"
                return None, len(memory), None, f"the driver reports {limit} for this process's number"
            return own, len(memory), _sum(list(memory.values())), None
        if not memory:
            return None, None, None, None
        # This process may be in the list under the host's number.
        return None, len(memory) - 1 or None, None, "the driver lists processes but none with this process's number"

    def _memory(self) -> tuple[int | None, int | None, int | None, MemoryInfo | None]:
        """Used, reserved and total memory, and the version of NVML's call that reported them."""
        version = getattr(self._nvml, "nvmlMemory_v2", None)
        if version is not None and not self._is_unsupported("nvmlDeviceGetMemoryInfo", "version"):
            info = self._ask("nvmlDeviceGetMemoryInfo", version=version)
            if info is not None:
                return info.used, info.reserved, info.total, "v2"
        # Version 1 is used only if version 2 is not supported at all: the two must not be mixed.
        if version is None or self._is_unsupported("nvmlDeviceGetMemoryInfo", "version"):
            info = self._ask("nvmlDeviceGetMemoryInfo")
            if info is not None:
                return info.used, None, info.total, "v1"
        return None, None, None, None

    def _is_unsupported(self, function: str, *options: str) -> bool:
        return (function, *options) in self._unsupported

    def _ask(self, function: str, *args: Any, **options: Any) -> Any:
        call = getattr(self._nvml, function, None)
        if call is None or self._is_unsupported(function, *options):
            return None
        try:
            return call(self._handle, *args, **options)
        except self._errors as error:
            # An error of the bindings themselves has no code; it means that the driver lacks the function.
            if getattr(error, "value", _FUNCTION_NOT_FOUND) in _FINAL:
                self._unsupported.add((function, *options))
            return None


def _errors(pynvml: Any) -> tuple[type[Exception], ...]:
    """Exceptions of the module: NVML's errors, and that of the bindings for a function newer than the driver."""
    mismatch = getattr(pynvml, "NVMLLibraryMismatchError", None)
    return (pynvml.NVMLError,) if mismatch is None else (pynvml.NVMLError, mismatch)


def _devices(pynvml: Any) -> Iterator[Device]:
    """All cards in NVML's order, each followed by its slices; devices that cannot be opened are skipped."""
    errors = _errors(pynvml)
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        except errors:
            continue
        slices = list(_slices(pynvml, handle, uuid))
        yield Device(handle, uuid, uuid, (uuid,), divided=bool(slices) or _mig_is_on(pynvml, handle))
        yield from slices


def _slices(pynvml: Any, handle: Any, uuid: str) -> Iterator[Device]:
    """Slices of a card that this process may see; a card that could have slices has empty places."""
    errors = _errors(pynvml)
    try:
        places = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except errors:
        return
    for number in range(places):
        try:
            yield _slice(pynvml, handle, uuid, number)
        except errors:
            continue


def _mig_is_on(pynvml: Any, handle: Any) -> bool:
    errors: tuple[type[Exception], ...] = (AttributeError, *_errors(pynvml))
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except errors:
        return False


def _slice(pynvml: Any, card: Any, card_uuid: str, number: int) -> Device:
    handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(card, number)
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    # Drivers before R470 name a slice by its card and its place on the card.
    place = f"{pynvml.nvmlDeviceGetGpuInstanceId(handle)}/{pynvml.nvmlDeviceGetComputeInstanceId(handle)}"
    return Device(handle, uuid, card_uuid, (uuid, f"MIG-{card_uuid}/{place}"))


def visible_entries(visible: str) -> list[str]:
    """Entries of CUDA_VISIBLE_DEVICES up to the first empty or negative one, at which CUDA stops reading."""
    entries = [entry.strip() for entry in visible.split(",")]
    valid = next((i for i, entry in enumerate(entries) if not entry or entry.startswith("-")), len(entries))
    return entries[:valid]


def _fitting(devices: list[Device], name: str) -> list[Device]:
    """Devices with this name, or else with a name that starts with it."""
    exact = [device for device in devices if name in device.names]
    return exact or [device for device in devices if any(known.startswith(name) for known in device.names)]


def _named(devices: list[Device], name: str) -> Device:
    return _only(_fitting(devices, name), f"CUDA_VISIBLE_DEVICES entry {name}")


def _slice_of(card: Device, devices: list[Device], entry: str | None) -> Device:
    """The slice of a card that an entry of CUDA_VISIBLE_DEVICES names, or the card's only one."""
    slices = [device for device in devices if device.mig and device.card == card.uuid]
    fitting = _fitting(slices, entry) if entry is not None and entry.startswith("MIG-") else slices
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(device.uuid for device in slices) or "NVML shows none, nvidia-smi -L lists them"
    raise SliceNotNamedError(
        f"card {card.uuid} is divided into slices (MIG), and which one is used is unknown: "
        f"name one slice in CUDA_VISIBLE_DEVICES ({names})"
    )


def _with_uuid(devices: list[Device], uuid: str) -> Device:
    return _only([device for device in devices if _bare(device.uuid) == _bare(uuid)], f"UUID {uuid}")


def _numbered(cards: list[Device], number: int, pci_order: bool) -> Device:
    if number >= len(cards):
        raise DeviceNotFoundError(f"NVML has no device number {number}; it has {len(cards)}")
    if len(cards) > 1 and not pci_order:
        raise DeviceNotFoundError(
            f"which of {len(cards)} cards CUDA calls number {number} is unknown: "
            "name cards by UUID in CUDA_VISIBLE_DEVICES, or set CUDA_DEVICE_ORDER=PCI_BUS_ID"
        )
    return cards[number]


def _only(fitting: list[Device], description: str) -> Device:
    if len(fitting) != 1:
        raise DeviceNotFoundError(f"{description} fits {len(fitting)} of NVML's devices")
    return fitting[0]


def _bare(uuid: str) -> str:
    return uuid.lower().removeprefix("gpu-").removeprefix("mig-")


def _text(name: str | bytes) -> str:
    """Text of a name; older versions of the bindings return bytes."""
    return name.decode() if isinstance(name, bytes) else name


def _sum(values: list[Any]) -> int | None:
    """Sum of the values; None if one of them is unknown."""
    known = [value for value in values if value not in (None, 0, _NOT_AVAILABLE)]
    return sum(known) if len(known) == len(values) else None
