"""Meters over several processes: sums, peaks and means of the parts by hand."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.measure.nvml import NvmlReading, NvmlSampler
from bench.measure.training_meters import MeterReadings, TrainingMeters, memory_columns, merge_nvml
from tests.measure.fake_nvml import OWN, A, FakeDevice, FakeNvml, process, ticking

FIRST = NvmlReading(
    name="H100", uuid=A, mig=False, seconds=10.0, samples=100, process_bytes=700, device_bytes=900, reserved_bytes=5,
    total_bytes=1000, memory_info="v2", utilisation_mean=50.0, utilisation_peak=60.0, power_mean_watts=200.0,
    power_peak_watts=300.0, sm_clock_mean_mhz=1000.0, sm_clock_lowest_mhz=900.0, temperature_peak_celsius=50.0,
    throttled={"heat": 0.5, "cap": 0.0}, energy_joules=2000.0, energy_source="counter", other_processes=0,
    other_bytes=None, warnings=("a", "b"),
)  # fmt: skip
SECOND = replace(
    FIRST, seconds=30.0, samples=300, process_bytes=None, device_bytes=950, utilisation_mean=70.0,
    utilisation_peak=55.0,
    sm_clock_mean_mhz=None, sm_clock_lowest_mhz=950.0, throttled={"heat": 0.1, "cap": 0.2}, energy_joules=500.0,
    energy_source="power", other_processes=2, warnings=("b", "c"),
)  # fmt: skip


def test_two_readings_make_one() -> None:
    both = merge_nvml(FIRST, SECOND)
    assert both is not None
    assert (both.seconds, both.samples) == (40.0, 400)
    assert (both.process_bytes, both.device_bytes, both.other_processes, both.other_bytes) == (700, 950, 2, None)
    assert (both.utilisation_mean, both.utilisation_peak) == (65.0, 60.0)
    assert (both.sm_clock_mean_mhz, both.sm_clock_lowest_mhz) == (1000.0, 900.0)
    assert both.throttled == pytest.approx({"heat": 0.2, "cap": 0.15})
    assert (both.energy_joules, both.energy_source) == (2500.0, "power")
    assert both.warnings == ("a", "b", "c")


def test_a_sum_with_an_unknown_part_is_unknown_and_a_peak_is_not() -> None:
    for pair in ((FIRST, None), (None, FIRST), (FIRST, replace(SECOND, energy_joules=None, energy_source=None))):
        both = merge_nvml(*pair)
        assert both is not None
        assert (both.energy_joules, both.energy_source, both.process_bytes) == (None, None, 700)
    assert merge_nvml(None, None) is None


def test_a_stretch_comes_back_from_json_and_goes_on() -> None:
    before = MeterReadings(
        FIRST, {"peak_rss_bytes": 5, "peak_reserved_bytes": None, "peak_allocated_bytes": 7}, ("slow",)
    )
    assert MeterReadings.from_dict(json.loads(json.dumps(before.as_dict()))) == before
    after = MeterReadings(
        None, {"peak_rss_bytes": 3, "peak_reserved_bytes": 2, "peak_allocated_bytes": 9}, ("hot", "slow")
    )
    both = after.after(before)
    assert both.peaks == {"peak_rss_bytes": 5, "peak_reserved_bytes": 2, "peak_allocated_bytes": 9}
    assert both.warnings == ("slow", "hot")
    assert both.nvml is not None
    assert both.nvml.energy_joules is None
    assert after.after(None) == after


def test_the_nearest_meter_there_is_feeds_the_peak_and_without_one_it_is_unknown() -> None:
    peaks = {"peak_rss_bytes": 5, "peak_reserved_bytes": 20, "peak_allocated_bytes": 7}
    host = {**peaks, "peak_reserved_bytes": None, "peak_allocated_bytes": None}
    for nvml, known, account, expected in (
        (FIRST, peaks, 6, (700, "nvml_process_bytes")),
        (SECOND, peaks, 6, (20, "peak_reserved_bytes")),
        (FIRST, {**peaks, "peak_reserved_bytes": 701}, 6, (701, "peak_reserved_bytes")),
        (None, peaks, None, (20, "peak_reserved_bytes")),
        (None, host, 6, (6, "account")),
        (None, host, None, (None, None)),
    ):
        found = memory_columns(MeterReadings(nvml, known, ()), account)
        assert (found["peak_memory_bytes"], found["memory_source"]) == expected
        assert found["peak_rss_bytes"] == 5
        assert found["energy_joules"] == (None if nvml is None else nvml.energy_joules)


def test_on_a_cpu_there_is_memory_of_the_process_and_no_reading() -> None:
    with TrainingMeters(torch.device("cpu")) as meters:
        with meters.paused():
            pass
        during = meters.readings()
    assert meters.readings().nvml is during.nvml is None
    peak = during.peaks.pop("peak_rss_bytes")  # type: ignore[attr-defined]
    assert peak > 2**20
    assert during.peaks == {"peak_allocated_bytes": None, "peak_reserved_bytes": None}


def test_a_reading_in_the_middle_does_not_disturb_the_one_at_the_end() -> None:
    def read(ask: bool) -> tuple[Any, Any]:
        card = FakeDevice(A, milliwatts=[100_000, 200_000, 300_000, 300_000], compute=[[process(OWN, 7)]])
        times = ticking()
        middle = None
        with NvmlSampler(A, interval=60, pynvml=FakeNvml([card]), now=lambda: next(times)) as sampler:
            assert sampler.reading is None
            with sampler.paused():
                middle = sampler.so_far() if ask else None
        assert sampler.so_far() is sampler.reading
        return middle, sampler.reading

    middle, end = read(ask=True)
    assert end == read(ask=False)[1]
    assert (middle.samples, middle.seconds) == (2, 2.0)
    assert middle.energy_joules == 2.0 * (100 + 200) / 2
    assert end.samples == 4


def test_a_figure_of_nvml_below_what_torch_has_reserved_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, our process number can be another process's on the host."""
    card, device = FakeDevice(A, compute=[[process(OWN, 300)]]), torch.device("cuda:0")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid=A))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 301)
    monkeypatch.setattr("bench.measure.training_meters.allocator_peaks", lambda _: (250, 301))
    monkeypatch.setattr("bench.measure.training_meters.NvmlSampler", partial(NvmlSampler, pynvml=FakeNvml([card])))
    with TrainingMeters(device) as meters:
        pass
    readings = meters.readings()
    assert any("less than torch holds" in warning for warning in readings.warnings)
    columns = memory_columns(readings, None)
    assert (columns["nvml_process_bytes"], columns["peak_memory_bytes"]) == (None, 301)
    assert columns["memory_source"] == "peak_reserved_bytes"


class Allocator:
    """Counts as torch's does: the allocated peak is never below what is live, and reserved blocks are kept."""

    def __init__(self) -> None:
        self.live = self.allocated = self.reserved = 0

    def allocate(self, count: int) -> None:
        self.live += count
        self.allocated = max(self.allocated, self.live)
        self.reserved = max(self.reserved, 2 * self.live)

    def peaks(self, _: torch.device) -> tuple[int, int]:
        return self.allocated, self.reserved


def test_what_is_allocated_in_a_pause_is_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation reserves ten times as much as a step, and nothing of it is in a peak, not even of later steps."""
    allocator = Allocator()
    monkeypatch.setattr("bench.measure.training_meters.allocator_peaks", allocator.peaks)
    meters = TrainingMeters(torch.device("cpu"))
    with meters:
        allocator.allocate(10)
        allocator.allocate(-4)
        with meters.paused():
            allocator.allocate(90)
            with meters.paused():
                pass
            meters.readings()  # as a checkpoint does
            allocator.allocate(-90)
        allocator.allocate(4)
    allocator.allocate(1000)
    peaks = meters.readings().peaks
    assert (peaks["peak_allocated_bytes"], peaks["peak_reserved_bytes"]) == (10, 20)


def test_nvmls_memory_is_that_of_the_steps_before_the_first_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver counts what torch reserves: 300 bytes for a step, and after an evaluation 900 for good."""
    held = 300
    card = FakeDevice(A, compute=lambda: [[process(OWN, held)]], used=lambda: held + 50, milliwatts=100_000)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid=A))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: held)
    monkeypatch.setattr("bench.measure.training_meters.allocator_peaks", lambda _: (held, held))
    monkeypatch.setattr("bench.measure.training_meters.NvmlSampler", partial(NvmlSampler, pynvml=FakeNvml([card])))
    found = []
    for paused in (True, False):
        held = 300
        with TrainingMeters(torch.device("cuda:0")) as meters:
            if paused:
                with meters.paused():
                    held = 900
                with meters.paused():
                    middle = meters.readings()  # as a checkpoint does
        found.append(meters.readings())
    for readings in (*found, middle):
        columns = memory_columns(readings, None)
        assert (columns["nvml_process_bytes"], columns["nvml_device_bytes"]) == (300, 350)
        assert (columns["peak_memory_bytes"], columns["memory_source"]) == (300, "nvml_process_bytes")


def test_a_later_doubt_about_the_process_is_about_its_earlier_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved = 200
    card = FakeDevice(A, compute=[[process(OWN, 300)]])
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid=A))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: reserved)
    monkeypatch.setattr("bench.measure.training_meters.allocator_peaks", lambda _: (reserved, reserved))
    monkeypatch.setattr("bench.measure.training_meters.NvmlSampler", partial(NvmlSampler, pynvml=FakeNvml([card])))
    with TrainingMeters(torch.device("cuda:0")) as meters:
        with meters.paused():
            reserved = 400
        time.sleep(0.02)  # a period below 10 ms is none
    columns = memory_columns(meters.readings(), None)
    assert (columns["nvml_process_bytes"], columns["peak_memory_bytes"]) == (None, 200)
