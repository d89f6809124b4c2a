"""Energy of a card between pauses, by a counter that ticks and by power, against what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from bench.measure.nvml import NvmlReading, NvmlSampler
from tests.measure.fake_nvml import (
    GPU_IS_LOST,
    NOT_SUPPORTED,
    A,
    Clock,
    FakeDevice,
    FakeNvml,
    NVMLError,
    PowerMeter,
    metered,
)
from tests.measure.readings import read


def sampled(card: FakeDevice, clock: Clock, events: Iterable[Callable[[], object] | float]) -> NvmlReading:
    """A block in which seconds pass and other things happen, in turn; a negative number is a pause of so many."""
    nvml = FakeNvml([card])
    with NvmlSampler(A, interval=60, pynvml=nvml, now=clock.now, sleep=clock.sleep) as sampler:
        for event in events:
            if callable(event):
                event()
            elif event < 0:
                with sampler.paused():
                    clock.sleep(-event)
            else:
                clock.sleep(event)
    assert sampler.reading is not None
    return sampler.reading


def test_energy_from_the_counter() -> None:
    clock = Clock()
    meter = PowerMeter(clock)
    reading = sampled(metered(A, meter), clock, [3.0])
    assert reading.energy_joules == pytest.approx(300.0)
    assert reading.energy_source == "counter"


@pytest.mark.parametrize("seconds", [0.15, 0.5, 4.0, 60.0])
def test_the_energy_of_an_evaluation_is_not_that_of_training(seconds: float) -> None:
    """Training at 300 W between evaluations at 500 W, whose lengths are no multiple of the counter's interval."""

    def measured(instant: bool) -> NvmlReading:
        clock = Clock()
        meter = PowerMeter(clock)
        with NvmlSampler(
            A, interval=60, pynvml=FakeNvml([metered(A, meter, instant)]), now=clock.now, sleep=clock.sleep
        ) as sampler:
            for number in range(20):
                meter.draw(300)
                clock.sleep(seconds)
                meter.draw(100)
                with sampler.paused():
                    meter.draw(500)
                    clock.sleep(0.313 + 0.01 * number)
                    meter.draw(100)
        assert sampler.reading is not None
        assert sampler.reading.power_is_instantaneous == instant
        return sampler.reading

    true = 20 * seconds * 300
    assert measured(instant=True).energy_joules == pytest.approx(true, rel=0.01)
    averaged = measured(instant=False)
    # The wait for the counter's update cannot be taken off; for a short time it would be a large part.
    if seconds < 2:
        assert (averaged.energy_joules, averaged.energy_source) == (None, None)
    else:
        assert averaged.energy_joules == pytest.approx(true, rel=0.01)


def test_short_periods_have_no_energy_where_the_counter_is_not_updated() -> None:
    clock = Clock()
    stuck = metered(A, PowerMeter(clock, tick=30.0))
    assert sampled(stuck, clock, [1.0, -1.0] * 5).energy_joules is None
    clock = Clock()
    long = sampled(metered(A, PowerMeter(clock, tick=30.0)), clock, [70.0, -1.0] * 5)
    assert long.energy_source == "counter"


def test_the_end_right_after_a_pause_is_no_period() -> None:
    clock = Clock()
    meter = PowerMeter(clock)
    reading = sampled(metered(A, meter), clock, [3.0, lambda: meter.draw(0), -5.0, lambda: meter.draw(9_000)])
    assert reading.energy_joules == pytest.approx(300.0, rel=0.01)
    assert reading.seconds == pytest.approx(3.0)


def test_a_pause_in_a_pause_changes_nothing() -> None:
    clock = Clock()
    meter = PowerMeter(clock)
    nvml = FakeNvml([metered(A, meter)])
    with NvmlSampler(A, interval=60, pynvml=nvml, now=clock.now, sleep=clock.sleep) as sampler:
        clock.sleep(3.0)
        with sampler.paused():
            with sampler.paused():
                clock.sleep(1.0)
            meter.draw(500)
            clock.sleep(1.0)
            meter.draw(100)
        clock.sleep(3.0)
    assert sampler.reading is not None
    assert sampler.reading.energy_joules == pytest.approx(600.0)
    assert sampler.reading.seconds == pytest.approx(6.0)


def broken(how: str, meter: PowerMeter, card: FakeDevice) -> Callable[[], None]:
    def lose() -> None:
        card.energy = NVMLError(GPU_IS_LOST)

    def find() -> None:
        card.energy = meter.counter

    def reset() -> None:
        meter.base -= 2_000_000

    def wrap() -> None:
        meter.base -= 2**63

    return {"lost": lose, "late": find, "goes backwards": reset, "wraps": wrap}[how]


@pytest.mark.parametrize("how", ["none", "late", "lost", "goes backwards", "wraps", "has not moved"])
def test_energy_from_power_when_the_counter_does_not_serve(how: str) -> None:
    clock = Clock()
    meter = PowerMeter(clock, tick=100.0 if how == "has not moved" else 0.1)
    meter.base = 2**63 + 5_000_000
    card = metered(A, meter)
    if how in ("none", "late"):
        card.energy = NVMLError(NOT_SUPPORTED if how == "none" else GPU_IS_LOST)
    event = (lambda: None) if how in ("none", "has not moved") else broken(how, meter, card)
    reading = sampled(card, clock, [1.0, event, 2.0])
    assert reading.energy_joules == pytest.approx(100 * 3)
    assert reading.energy_source == "power"


def test_a_counter_that_goes_backwards_on_the_way_is_not_trusted_at_the_end() -> None:
    clock = Clock()
    meter = PowerMeter(clock)
    card = metered(A, meter)
    nvml, reset = FakeNvml([card]), broken("goes backwards", meter, card)
    with NvmlSampler(A, interval=60, pynvml=nvml, now=clock.now, sleep=clock.sleep) as sampler:
        clock.sleep(3.0)
        with sampler.paused():
            reset()
        clock.sleep(3.0)
    assert sampler.reading is not None
    assert sampler.reading.energy_joules == pytest.approx(600.0), "a reset during a pause does no harm"
    assert sampler.reading.energy_source == "counter"
    reading = sampled(card, clock, [3.0, reset, -1.0, 3.0])
    assert reading.energy_joules == pytest.approx(600)
    assert reading.energy_source == "power"


@pytest.mark.parametrize(
    ("changes", "instantaneous", "watts"),
    [
        ({"instant": [400_000], "milliwatts": [300_000]}, True, 400),
        ({"instant": NVMLError(NOT_SUPPORTED), "capability": (9, 0)}, False, 300),
        ({"instant": NVMLError(NOT_SUPPORTED), "capability": (8, 6)}, False, 300),
        ({"instant": NVMLError(NOT_SUPPORTED), "capability": (8, 0)}, True, 300),
        ({"instant": NVMLError(NOT_SUPPORTED), "capability": (7, 5)}, True, 300),
        # A lost answer is not replaced by a mean.
        ({"instant": [400_000, NVMLError(GPU_IS_LOST)]}, True, 400),
    ],
)
def test_power_of_the_moment_is_preferred_to_a_mean(changes: dict[str, Any], instantaneous: bool, watts: float) -> None:
    reading = read(FakeDevice(A, **changes))
    assert (reading.power_is_instantaneous, reading.power_mean_watts) == (instantaneous, watts)


def test_an_old_module_without_the_field_of_instantaneous_power() -> None:
    class Old(FakeNvml):
        nvmlDeviceGetFieldValues = None  # type: ignore[assignment]

    with NvmlSampler(A, interval=60, pynvml=Old([FakeDevice(A, instant=400_000)])) as sampler:
        pass
    assert sampler.reading is not None
    assert (sampler.reading.power_is_instantaneous, sampler.reading.power_mean_watts) == (False, 300)


def test_energy_is_unknown_without_counter_and_power() -> None:
    refused = {"nvmlDeviceGetPowerUsage": NVMLError(NOT_SUPPORTED)}
    reading = read(FakeDevice(A), refused)
    assert (reading.energy_joules, reading.energy_source) == (None, None)
