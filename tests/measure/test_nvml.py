"""The NVML sampler against a driver that plays every case, and against a real card."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from typing import Any

import pynvml
import pytest

from bench.measure.nvml import NvmlSampler
from tests.measure.fake_nvml import (
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NOT_SUPPORTED,
    OWN,
    A,
    B,
    FakeDevice,
    FakeNvml,
    NVMLError,
    NVMLLibraryMismatchError,
    process,
    sliced,
    ticking,
)
from tests.measure.readings import read


@pytest.fixture(autouse=True)
def no_choice_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)


def test_the_bits_of_throttling_are_nvmls() -> None:
    from bench.measure.nvml import THROTTLES

    assert set(THROTTLES) == {
        pynvml.nvmlClocksEventReasonSwPowerCap,
        pynvml.nvmlClocksEventReasonHwSlowdown,
        pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwThermalSlowdown,
        pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }


def test_peaks_and_means() -> None:
    card = FakeDevice(
        A,
        compute=[[process(OWN, 3_000)], [process(OWN, 2_000)]],
        used=[4_000, 6_000],
        utilisation=[20, 60],
        milliwatts=[100_000, 200_000],
        clock=[1_000, 1_500],
        temperature=[70, 65],
    )
    reading = read(card)
    assert (reading.name, reading.uuid, reading.mig) == ("Fake H100", A, False)
    assert (reading.samples, reading.seconds) == (2, 2.0)
    assert (reading.process_bytes, reading.device_bytes) == (3_000, 6_000)
    assert (reading.reserved_bytes, reading.total_bytes, reading.memory_info) == (700, 80_000, "v2")
    assert (reading.utilisation_mean, reading.utilisation_peak) == (40, 60)
    assert (reading.power_mean_watts, reading.power_peak_watts) == (150, 200)
    assert (reading.sm_clock_mean_mhz, reading.sm_clock_lowest_mhz) == (1_250, 1_000)
    assert reading.temperature_peak_celsius == 70
    assert (reading.other_processes, reading.warnings) == (0, ())
    assert reading.as_dict()["process_bytes"] == 3_000


def test_the_thread_sees_a_peak_between_the_ends() -> None:
    card = FakeDevice(A, used=[1, 1, 9_000, 1])
    with NvmlSampler(A, interval=0.001, pynvml=FakeNvml([card])) as sampler:
        deadline = time.monotonic() + 10
        while len(card.used) > 1 and time.monotonic() < deadline:
            time.sleep(0.002)
    assert sampler.reading is not None
    assert sampler.reading.device_bytes == 9_000
    assert sampler.reading.samples >= 4


def test_without_a_driver_there_is_a_reason_and_no_reading() -> None:
    nvml = FakeNvml(refused={"nvmlInit": NVMLError(DRIVER_NOT_LOADED)})
    with NvmlSampler(A, pynvml=nvml) as sampler, sampler.paused():
        pass
    assert (sampler.reading, sampler.reason) == (None, "NVML: Driver Not Loaded")
    with NvmlSampler(A, pynvml=FakeNvml([FakeDevice(B)])) as sampler:
        pass
    assert sampler.reading is None
    assert sampler.reason is not None
    assert A in sampler.reason


def test_without_the_bindings_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with NvmlSampler() as sampler:
        pass
    assert (sampler.reading, sampler.reason) == (None, "nvidia-ml-py is not installed")


QUERIES = {
    "nvmlDeviceGetName": ("name",),
    "nvmlDeviceGetComputeRunningProcesses": ("process_bytes", "other_processes", "other_bytes"),
    "nvmlDeviceGetMemoryInfo": ("device_bytes", "reserved_bytes", "total_bytes", "memory_info"),
    "nvmlDeviceGetUtilizationRates": ("utilisation_mean", "utilisation_peak"),
    "nvmlDeviceGetPowerUsage": ("power_mean_watts", "power_peak_watts", "power_is_instantaneous"),
    "nvmlDeviceGetClockInfo": ("sm_clock_mean_mhz", "sm_clock_lowest_mhz"),
    "nvmlDeviceGetTemperature": ("temperature_peak_celsius",),
}


@pytest.mark.parametrize("function", QUERIES)
@pytest.mark.parametrize(
    "error",
    [NVMLError(NOT_SUPPORTED), NVMLError(FUNCTION_NOT_FOUND), NVMLError(GPU_IS_LOST), NVMLLibraryMismatchError()],
    ids=["not supported", "not found", "lost", "mismatch"],
)
def test_what_the_driver_refuses_is_unknown_and_the_rest_is_there(function: str, error: Exception) -> None:
    def card() -> FakeDevice:
        counter = itertools.count(1_000, 1_000)
        return FakeDevice(A, compute=[[process(OWN, 3_000), process(1, 5)]], energy=lambda: next(counter))

    reading = read(card(), {function: error}).as_dict()
    unknown = {name for name, value in reading.items() if value is None}
    assert unknown == set(QUERIES[function])
    whole = read(card()).as_dict()
    assert {k: v for k, v in reading.items() if k not in unknown | {"warnings"}} == {
        k: v for k, v in whole.items() if k not in unknown | {"warnings"}
    }


def test_a_function_that_is_not_supported_is_not_asked_again_and_a_lost_card_is() -> None:
    for code, times in ((NOT_SUPPORTED, 1), (GPU_IS_LOST, 2)):
        nvml = FakeNvml([FakeDevice(A)])
        asked: list[FakeDevice] = []

        def power(handle: FakeDevice, code: int = code, asked: list[FakeDevice] = asked) -> int:
            asked.append(handle)
            raise NVMLError(code)

        nvml.nvmlDeviceGetPowerUsage = power  # type: ignore[method-assign]
        with NvmlSampler(A, interval=60, pynvml=nvml):
            pass
        assert len(asked) == times


def test_nothing_supported_at_all() -> None:
    refused: dict[str, Exception] = {name: NVMLError(NOT_SUPPORTED) for name in QUERIES}
    refused |= {
        name: NVMLError(NOT_SUPPORTED)
        for name in (
            "nvmlDeviceGetGraphicsRunningProcesses",
            "nvmlDeviceGetCurrentClocksEventReasons",
            "nvmlDeviceGetCurrentClocksThrottleReasons",
        )
    }
    reading = read(FakeDevice(A), refused)
    known = {name for name, value in reading.as_dict().items() if value is not None}
    assert known == {"uuid", "mig", "seconds", "samples", "warnings"}
    assert reading.warnings == ()


def test_an_old_driver_counts_reserved_memory_as_used_and_the_reading_says_so() -> None:
    reading = read(FakeDevice(A, used=4_000, reserved=NVMLError(FUNCTION_NOT_FOUND)))
    assert (reading.device_bytes, reading.reserved_bytes, reading.memory_info) == (4_700, None, "v1")


def test_one_lost_answer_does_not_mix_the_two_memory_figures() -> None:
    reading = read(FakeDevice(A, used=4_000, reserved=[NVMLError(GPU_IS_LOST), 700]))
    assert (reading.device_bytes, reading.reserved_bytes, reading.memory_info) == (4_000, 700, "v2")


def test_old_names_of_the_throttle_reasons_serve() -> None:
    card = FakeDevice(A, reasons=[0x20])
    reading = read(card, {"nvmlDeviceGetCurrentClocksEventReasons": NVMLError(FUNCTION_NOT_FOUND)})
    assert reading.throttled is not None
    assert reading.throttled["software thermal slowdown"] == 1


@pytest.mark.parametrize(
    ("processes", "own", "others", "others_bytes", "doubt"),
    [
        ([process(OWN, 3_000)], 3_000, 0, 0, ""),
        ([process(OWN, None)], None, 0, 0, "no figure"),
        ([process(OWN, 2**64 - 1)], None, 0, 0, "no figure"),
        ([process(OWN, 0)], None, 0, 0, "0 bytes"),
        ([process(OWN, 0), process(7, 0)], None, 1, None, "0 bytes"),
        ([process(OWN, 3_000), process(1, 2 << 30)], 3_000, 1, 2 << 30, ""),
        ([process(OWN, 3_000), process(1, None), process(2, 7)], 3_000, 2, None, ""),
        # More than the card has, or less than this process holds, is another process's with the same number.
        ([process(OWN, 90_000), process(1, 5)], None, 1, None, "more than the device has"),
        ([process(OWN, 1_999), process(1, 5)], None, 1, None, "less than torch holds"),
        ([process(OWN, 2_000)], 2_000, 0, 0, ""),
        ([], None, None, None, ""),
        # One that is not us under our number can be us under the number of outside the container; of two, one is not.
        ([process(1, 5)], None, None, None, "none with this process's number"),
        ([process(1, 5), process(2, 6)], None, 1, None, "none with this process's number"),
    ],
)
def test_processes_on_the_card(
    processes: list[Any], own: int | None, others: int | None, others_bytes: Any, doubt: str
) -> None:
    nvml = FakeNvml([FakeDevice(A, compute=[processes])])
    with NvmlSampler(A, interval=60, pynvml=nvml, held=lambda: 2_000) as sampler:
        pass
    reading = sampler.reading
    assert reading is not None
    assert (reading.process_bytes, reading.other_processes, reading.other_bytes) == (own, others, others_bytes)
    assert any("other process" in warning for warning in reading.warnings) == bool(others)
    doubts = [warning for warning in reading.warnings if "memory of this process" in warning]
    assert len(doubts) == bool(doubt)
    assert doubt in "".join(doubts)


def test_one_doubtful_sample_makes_the_peak_unknown() -> None:
    """A process with our number held enough at first; later torch holds more than that."""
    held, times = iter([1_000, 1_000, 9_000, 9_000]), ticking()
    nvml = FakeNvml([FakeDevice(A, compute=[[process(OWN, 5_000)]])])
    with NvmlSampler(A, interval=60, pynvml=nvml, now=lambda: next(times), held=lambda: next(held)) as sampler:
        pass
    assert sampler.reading is not None
    assert sampler.reading.process_bytes is None


def test_memory_that_is_freed_while_the_driver_is_asked_is_no_doubt() -> None:
    held = iter([9_000, 1_000] * 2)
    nvml = FakeNvml([FakeDevice(A, compute=[[process(OWN, 5_000)]])])
    with NvmlSampler(A, interval=60, pynvml=nvml, held=lambda: next(held)) as sampler:
        pass
    assert sampler.reading is not None
    assert (sampler.reading.process_bytes, sampler.reading.warnings) == (5_000, ())


def test_other_processes_are_a_warning_and_one_in_both_lists_is_one() -> None:
    card = FakeDevice(A, compute=[[process(OWN, 3_000), process(7, 2 << 30)]], graphics=[[process(7, 2 << 30)]])
    assert read(card).warnings == ("1 other process on the GPU, holding up to 2.00 GiB",)


@pytest.mark.parametrize(
    ("bit", "words"),
    [(0x20, "by heat"), (0x40, "by heat"), (0x04, "by power"), (0x80, "by power"), (0x08, "by heat or power")],
)
def test_throttling_is_a_warning_with_its_share(bit: int, words: str) -> None:
    (warning,) = read(FakeDevice(A, reasons=[0, 0, bit | 0x01, bit | 0x01]), pauses=1).warnings
    assert words in warning
    assert "50% of the samples" in warning


@pytest.mark.parametrize(
    ("reasons", "warned"),
    [
        ([0x04, 0], False),
        ([0x04, 0x04, *[0] * 20], False),
        ([0x04, 0x04, 0x04, *[0] * 19], True),
        ([0x40, *[0] * 21], True),
    ],
)
def test_a_power_cap_now_and_then_is_normal_at_full_load_and_heat_is_not(reasons: list[int], warned: bool) -> None:
    reading = read(FakeDevice(A, reasons=list(reasons)), pauses=len(reasons) // 2 - 1)
    assert reading.samples == len(reasons)
    assert bool(reading.warnings) == warned
    assert reading.throttled is not None
    assert any(reading.throttled.values()), "the share itself is told"


def test_an_idle_card_or_set_clocks_are_no_throttling() -> None:
    reading = read(FakeDevice(A, reasons=[0x01, 0x02]))
    assert reading.warnings == ()
    assert reading.throttled is not None
    assert set(reading.throttled.values()) == {0}


def test_a_pause_is_left_out_of_everything() -> None:
    reading = read(FakeDevice(A, used=[1, 2, 3, 4]), pauses=1)
    assert (reading.samples, reading.seconds) == (4, 4.0)
    by_power = read(FakeDevice(A, milliwatts=[100_000, 200_000, 500_000, 700_000]), pauses=1)
    assert by_power.energy_joules == pytest.approx(150 * 2 + 600 * 2)


def test_the_thread_rests_during_a_pause() -> None:
    card = FakeDevice(A)
    nvml = FakeNvml([card])
    with NvmlSampler(A, interval=0.001, pynvml=nvml) as sampler, sampler.paused():
        card.used = 70_000
        time.sleep(0.03)
        card.used = 5_000
    assert sampler.reading is not None
    assert sampler.reading.device_bytes == 5_000


def test_a_failing_meter_does_not_end_what_it_measures() -> None:
    card = FakeDevice(A, used=[4_000, RuntimeError("bindings broken")])
    reading = read(card)
    assert reading.device_bytes == 4_000
    assert reading.warnings == ("sampling the GPU stopped early: RuntimeError: bindings broken",)


def test_a_slice_tells_its_memory_and_neither_power_nor_utilisation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-s2")
    nvml = sliced()
    with NvmlSampler(None, interval=60, pynvml=nvml) as sampler:
        pass
    assert sampler.reading is not None
    assert (sampler.reading.uuid, sampler.reading.mig) == ("MIG-s2", True)
    assert sampler.reading.device_bytes == 5_000
    assert (sampler.reading.energy_joules, sampler.reading.utilisation_mean) == (None, None)
    assert nvml.calls.count("nvmlDeviceGetTotalEnergyConsumption") == 1, "an invalid argument stays invalid"


def test_a_divided_card_without_a_named_slice_has_no_reading() -> None:
    with NvmlSampler(A, pynvml=sliced()) as sampler:
        pass
    assert sampler.reading is None
    assert "name one slice in CUDA_VISIBLE_DEVICES (MIG-s1, MIG-s2)" in str(sampler.reason)


def test_it_needs_no_torch() -> None:
    program = "import sys, bench.measure.nvml; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.gpu
def test_a_real_card(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.undo()
    properties = torch.cuda.get_device_properties(0)
    x = torch.randn(4096, 4096, device="cuda")

    def work(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            x @ x
            torch.cuda.synchronize()

    work(2.0)  # a power reading can be the mean of the last second, and clocks rise
    with NvmlSampler(str(properties.uuid), held=torch.cuda.memory_reserved) as sampler:
        block = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")
        work(4.0)
        reserved = torch.cuda.max_memory_reserved()
        del block
    reading = sampler.reading
    assert reading is not None, sampler.reason
    assert str(properties.uuid) in reading.uuid
    assert reading.samples > 10
    # A driver in a container may not tell each of these; what it tells has to be possible.
    assert reading.device_bytes is None or reserved <= reading.device_bytes <= properties.total_memory * 1.05
    assert reading.process_bytes is None or reading.process_bytes >= reserved
    assert reading.power_mean_watts is None or 10 < reading.power_mean_watts < 2000
    if reading.energy_joules is not None and reading.power_mean_watts is not None:
        assert reading.energy_joules == pytest.approx(reading.power_mean_watts * reading.seconds, rel=0.5)
