"""A stand-in for the `pynvml` module: cards, slices and what a driver refuses, as the test sets them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

A, B = "GPU-aaaa1111-0000-0000-0000-000000000000", "GPU-bbbb2222-0000-0000-0000-000000000000"
NOT_SUPPORTED = 3
FUNCTION_NOT_FOUND = 13
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15


class NVMLError(Exception):
    """With NVML's code, as the real one."""

    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class NVMLLibraryMismatchError(Exception):
    """The bindings' own, without a code."""


@dataclass
class FakeDevice:
    """A card or a slice. A list is played value by value, the last one again and again; an exception is raised."""

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
    energy: Any = field(default_factory=lambda: NVMLError(NOT_SUPPORTED))
    persistence: Any = 1
    cap: Any = 700_000
    usual_cap: Any = 700_000
    highest_clock: Any = 1_980
    ecc: Any = (1, 1)
    uncorrected: Any = 0
    mig_mode: Any = (0, 0)


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

    def __init__(self, devices: Iterable[FakeDevice] = (), refused: Mapping[str, Exception] | None = None) -> None:
        self.devices = list(devices)
        self.refused: Mapping[str, Exception] = refused or {}
        self.calls: list[str] = []
        self.open = 0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name != "nvmlMemory_v2":
            self.calls.append(name)
            error = self.refused.get(name)
            if error is not None:

                def refuse(*_: Any, **__: Any) -> None:
                    raise error

                return refuse
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
            raise NVMLError(6)
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
    return FakeNvml([FakeDevice(B), FakeDevice(A, slices=slices)])


def handle_reserved(reserved: Any) -> int:
    """The older memory call counts what is reserved as used."""
    return 700 if isinstance(reserved, Exception) else int(reserved)


def play(device: FakeDevice, name: str) -> Any:
    """The next value of a script; raises an exception that stands there, except under `reserved`."""
    value = getattr(device, name)
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
