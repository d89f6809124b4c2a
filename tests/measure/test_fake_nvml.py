"""The stand-in for NVML against the real bindings: names, signatures, exceptions, and a clock that ticks."""

from __future__ import annotations

import inspect

import pynvml
import pytest

from tests.measure import fake_nvml
from tests.measure.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    POWER_INSTANT,
    A,
    Clock,
    FakeDevice,
    FakeNvml,
    NVMLError,
    PowerMeter,
    functions,
    opened,
)


def test_the_stand_in_offers_what_the_real_module_does() -> None:
    for name, signature in functions().items():
        real = list(inspect.signature(getattr(pynvml, name)).parameters)
        assert list(signature.parameters)[1:] == real, name
    for name in ("NVML_CLOCK_SM", "NVML_TEMPERATURE_GPU", "nvmlMemory_v2", "NVML_FI_DEV_POWER_INSTANT"):
        assert getattr(FakeNvml, name) == getattr(pynvml, name)
    assert FakeNvml.NVMLError is pynvml.NVMLError
    assert FakeNvml.NVMLLibraryMismatchError is pynvml.NVMLLibraryMismatchError
    assert not hasattr(pynvml.NVMLLibraryMismatchError(), "value")
    for code, kind in (
        (fake_nvml.UNINITIALIZED, pynvml.NVMLError_Uninitialized),
        (fake_nvml.INVALID_ARGUMENT, pynvml.NVMLError_InvalidArgument),
        (NOT_SUPPORTED, pynvml.NVMLError_NotSupported),
        (fake_nvml.NOT_FOUND, pynvml.NVMLError_NotFound),
        (FUNCTION_NOT_FOUND, pynvml.NVMLError_FunctionNotFound),
        (DRIVER_NOT_LOADED, pynvml.NVMLError_DriverNotLoaded),
        (GPU_IS_LOST, pynvml.NVMLError_GpuIsLost),
    ):
        assert type(NVMLError(code)) is kind
    value = pynvml.c_nvmlFieldValue_t()
    (field,) = opened(FakeNvml([FakeDevice(A)])).nvmlDeviceGetFieldValues(FakeDevice(A), [POWER_INSTANT])
    assert all(hasattr(value, name) for name in vars(field))
    assert hasattr(value.value, "uiVal")
    assert field.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT


def test_the_stand_in_refuses_every_call_before_its_start_and_after_its_end() -> None:
    nvml = FakeNvml([FakeDevice(A)])
    for _ in range(2):
        for call in (nvml.nvmlDeviceGetCount, nvml.nvmlShutdown):
            with pytest.raises(pynvml.NVMLError_Uninitialized):
                call()
        nvml.nvmlInit()
        assert nvml.nvmlDeviceGetCount() == 1
        nvml.nvmlShutdown()


def test_the_stand_in_ticks_by_its_clock() -> None:
    clock = Clock()
    meter = PowerMeter(clock)
    meter.draw(200)
    before = meter.counter()
    clock.sleep(0.15)
    assert meter.counter() - before == 6_300 + 27_400, "from the tick before the change to the one before now"
    meter.draw(400)
    clock.sleep(0.5)
    assert meter.instant() == 400_000
    assert meter.mean() == pytest.approx(0.35 * 100_000 + 0.15 * 200_000 + 0.5 * 400_000)
    clock.sleep(10)
    assert meter.counter() - before == pytest.approx(1000 * (30 + 200 + 4000), rel=0.02)
