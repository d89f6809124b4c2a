"""A stand-in for the `pynvml` module: cards, slices, and refusals of a driver, as the test sets them.

It behaves like the real library where that makes measuring difficult: it raises the real exception classes, refuses
every call before `nvmlInit` and after `nvmlShutdown`, refuses most queries of a slice, and a card with a `PowerMeter`
has an energy counter that ticks and a power reading that is a mean over a second.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from pynvml import NVMLError, NVMLLibraryMismatchError

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-bbbb2222-0000-0000-0000-000000000000"
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NOT_FOUND = 6
FUNCTION_NOT_FOUND = 13
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
POWER_INSTANT = 186
# Calls that the driver refuses for the handle of a slice, with the code.
REFUSED_FOR_SLICES = {
    "nvmlDeviceGetUtilizationRates": NOT_SUPPORTED,
    "nvmlDeviceGetPowerUsage": NOT_SUPPORTED,
    "nvmlDeviceGetTotalEnergyConsumption": INVALID_ARGUMENT,
    "nvmlDeviceGetFieldValues": INVALID_ARGUMENT,
    "nvmlDeviceGetClockInfo": INVALID_ARGUMENT,
    "nvmlDeviceGetTemperature": INVALID_ARGUMENT,
    "nvmlDeviceGetCurrentClocksEventReasons": NOT_SUPPORTED,
    "nvmlDeviceGetCurrentClocksThrottleReasons": NOT_SUPPORTED,
    "nvmlDeviceGetMaxMigDeviceCount": INVALID_ARGUMENT,
    "nvmlDeviceGetMigMode": INVALID_ARGUMENT,
}


class Clock:
    """A clock in seconds that stands still between calls of `sleep`."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


class PowerMeter:
    """The power and energy sensors of a card whose power is set by `draw`.

    Args:
        clock: the time.
        tick: seconds between updates of the energy counter.
        phase: seconds after which it is first updated.
    """

    def __init__(self, clock: Clock, tick: float = 0.1, phase: float = 0.037) -> None:
        self.clock, self.tick, self.phase = clock, tick, phase
        self.base = 7_000
        self._log = [(clock.now() - 10.0, 100.0)]

    def draw(self, watts: float) -> None:
        """Sets the power from now on."""
        self._log.append((self.clock.now(), watts))

    def joules(self, until: float) -> float:
        """Energy until a time."""
        ends = [*(at for at, _ in self._log[1:]), until]
        parts = zip(self._log, ends, strict=True)
        return sum(max(0.0, min(end, until) - at) * watts for (at, watts), end in parts)

    def counter(self) -> int:
        """Millijoules at the last tick."""
        ticks = (self.clock.now() - self.phase) // self.tick
        return self.base + round(self.joules(ticks * self.tick + self.phase) * 1000)

    def mean(self) -> int:
        """Milliwatts, as the mean of the last second."""
        now = self.clock.now()
        return round((self.joules(now) - self.joules(now - 1.0)) * 1000)

    def instant(self) -> int:
        """Milliwatts now."""
        return round(self._log[-1][1] * 1000)


@dataclass
class FakeDevice:
    """A card or a slice. A list is played value by value, the last one again and again; a function is called; an
    exception is raised."""

    uuid: str
    name: str = "Fake H100"
    slices: list[FakeDevice | None] = field(default_factory=list)
    place: tuple[int, int] = (0, 0)
    compute: Any = ()
    graphics: Any = ()
    used: Any = 5_000
    reserved: Any = 700
    total: int = 80_000
    utilisation: Any = 50
    milliwatts: Any = 300_000
    clock: Any = 1_980
    temperature: Any = 60
    reasons: Any = 0
    instant: Any = field(default_factory=lambda: NVMLError(NOT_SUPPORTED))
    energy: Any = field(default_factory=lambda: NVMLError(NOT_SUPPORTED))
    capability: tuple[int, int] = (9, 0)
    persistence: Any = 1
    cap: Any = 700_000
    usual_cap: Any = 700_000
    highest_clock: Any = 1_980
    ecc: Any = (1, 1)
    uncorrected: Any = 0
    mig_mode: Any = (0, 0)

    @property
    def is_slice(self) -> bool:
        return self.uuid.startswith("MIG-")


def metered(uuid: str, meter: PowerMeter, instant: bool = True, **changes: Any) -> FakeDevice:
    """A card with a power meter; without `instant` it reports mean power alone, as an older driver does."""
    now: Any = meter.instant if instant else NVMLError(NOT_SUPPORTED)
    return FakeDevice(uuid, energy=meter.counter, milliwatts=meter.mean, **{"instant": now, **changes})


def process(pid: int, memory: int | None) -> SimpleNamespace:
    """An entry of a list of running processes."""
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


class FakeNvml:
    """Plays the module. `refused` maps a function's name to the error that it raises."""

    NVMLError = NVMLError
    NVMLLibraryMismatchError = NVMLLibraryMismatchError
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    nvmlMemory_v2 = 0x02000028
    NVML_FI_DEV_POWER_INSTANT = POWER_INSTANT

    def __init__(self, devices: Iterable[FakeDevice] = (), refused: Mapping[str, Exception] | None = None) -> None:
        self.devices = list(devices)
        self.refused: Mapping[str, Exception] = refused or {}
        self.calls: list[str] = []
        self.open = 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name != "nvmlMemory_v2":
            error = self.refused.get(name)
            if error is None and name != "nvmlInit" and not self.open:
                error = NVMLError(UNINITIALIZED)
            call = super().__getattribute__(name)
            if call is None:
                return None

            def answer(*args: Any, **options: Any) -> Any:
                self.calls.append(name)
                if error is not None:
                    raise error
                if args and isinstance(args[0], FakeDevice) and args[0].is_slice and name in REFUSED_FOR_SLICES:
                    raise NVMLError(REFUSED_FOR_SLICES[name])
                return call(*args, **options)

            return answer
        return super().__getattribute__(name)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:
        return self.devices[index]

    def nvmlDeviceGetUUID(self, handle: FakeDevice) -> str:
        return handle.uuid

    def nvmlDeviceGetName(self, handle: FakeDevice) -> str:
        return handle.name

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeDevice) -> int:
        if not device.slices:
            raise NVMLError(NOT_SUPPORTED)
        return len(device.slices)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeDevice, index: int) -> FakeDevice:
        part = device.slices[index]
        if part is None:
            raise NVMLError(NOT_FOUND)
        return part

    def nvmlDeviceGetGpuInstanceId(self, device: FakeDevice) -> int:
        return device.place[0]

    def nvmlDeviceGetComputeInstanceId(self, device: FakeDevice) -> int:
        return device.place[1]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeDevice) -> list[Any]:
        return list(play(handle, "compute"))

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: FakeDevice) -> list[Any]:
        return list(play(handle, "graphics"))

    def nvmlDeviceGetMemoryInfo(self, handle: FakeDevice, version: int | None = None) -> SimpleNamespace:
        used, reserved = play(handle, "used"), play(handle, "reserved")
        if version is None:
            return SimpleNamespace(total=handle.total, used=used + handle_reserved(reserved))
        if isinstance(reserved, NVMLError):
            raise reserved
        return SimpleNamespace(total=handle.total, used=used, reserved=reserved)

    def nvmlDeviceGetUtilizationRates(self, handle: FakeDevice) -> SimpleNamespace:
        return SimpleNamespace(gpu=play(handle, "utilisation"), memory=0)

    def nvmlDeviceGetPowerUsage(self, handle: FakeDevice) -> int:
        return int(play(handle, "milliwatts"))

    def nvmlDeviceGetFieldValues(self, handle: FakeDevice, fieldIds: list[int]) -> list[SimpleNamespace]:
        return [self._field(handle, number) for number in fieldIds]

    def _field(self, handle: FakeDevice, number: int) -> SimpleNamespace:
        """A field that is not supported is no error of the call: the code stands beside the value."""
        value, code = 0, 0 if number == POWER_INSTANT else NOT_SUPPORTED
        try:
            value = int(play(handle, "instant")) if not code else 0
        except NVMLError as error:
            code = error.value
        return SimpleNamespace(fieldId=number, nvmlReturn=code, valueType=1, value=SimpleNamespace(uiVal=value))

    def nvmlDeviceGetCudaComputeCapability(self, handle: FakeDevice) -> tuple[int, int]:
        return handle.capability

    def nvmlDeviceGetClockInfo(self, handle: FakeDevice, type: int) -> int:
        assert type == self.NVML_CLOCK_SM
        return int(play(handle, "clock"))

    def nvmlDeviceGetTemperature(self, handle: FakeDevice, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return int(play(handle, "temperature"))

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: FakeDevice) -> int:
        return int(play(handle, "reasons"))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: FakeDevice) -> int:
        return int(play(handle, "reasons"))

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.1"

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 12_080

    def nvmlDeviceGetPersistenceMode(self, handle: FakeDevice) -> int:
        return int(play(handle, "persistence"))

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: FakeDevice) -> int:
        return int(play(handle, "cap"))

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: FakeDevice) -> int:
        return int(play(handle, "usual_cap"))

    def nvmlDeviceGetMaxClockInfo(self, handle: FakeDevice, type: int) -> int:
        assert type == self.NVML_CLOCK_SM
        return int(play(handle, "highest_clock"))

    def nvmlDeviceGetEccMode(self, handle: FakeDevice) -> list[int]:
        return list(play(handle, "ecc"))

    def nvmlDeviceGetTotalEccErrors(self, handle: FakeDevice, errorType: int, counterType: int) -> int:
        assert (errorType, counterType) == (1, 0)
        return int(play(handle, "uncorrected"))

    def nvmlDeviceGetMigMode(self, device: FakeDevice) -> list[int]:
        return list(play(device, "mig_mode"))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeDevice) -> int:
        return int(play(handle, "energy"))


def sliced() -> FakeNvml:
    """Card B, and card A with two slices and a free place between them."""
    slices = [FakeDevice("MIG-s1", place=(1, 0)), None, FakeDevice("MIG-s2", place=(2, 0))]
    return FakeNvml([FakeDevice(B), FakeDevice(A, slices=slices, mig_mode=(1, 1))])


def opened(nvml: FakeNvml) -> FakeNvml:
    """The module after `nvmlInit`."""
    nvml.nvmlInit()
    return nvml


def handle_reserved(reserved: Any) -> int:
    """The older memory call counts what is reserved as used."""
    return 700 if isinstance(reserved, Exception) else int(reserved)


def play(device: FakeDevice, name: str) -> Any:
    """The next value of a script, or that of a function; raises an exception found there, except under `reserved`."""
    value = getattr(device, name)
    if callable(value):
        value = value()
    if isinstance(value, list):
        value = value.pop(0) if len(value) > 1 else value[0]
    if isinstance(value, Exception) and name != "reserved":
        raise value
    return value


def functions() -> dict[str, inspect.Signature]:
    """What the stand-in offers, to be held against the real module."""
    return {
        name: inspect.signature(function)
        for name, function in inspect.getmembers(FakeNvml, inspect.isfunction)
        if name.startswith("nvml")
    }


OWN = os.getpid()


def ticking(step: float = 2.0) -> Iterator[float]:
    at = 100.0
    while True:
        yield at
        at += step
