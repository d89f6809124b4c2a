"""Sample an NVIDIA GPU while a block runs: memory, utilisation, power, clock, temperature, throttling, energy.

A thread samples the driver (NVML) every 50 ms. The module does not need torch; without a driver the sampler gives no
reading but a reason.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Literal

from bench.measure.energy import EnergyTotals
from bench.measure.nvml_device import (
    Device,
    DeviceNotFoundError,
    MemoryInfo,
    Probe,
    Sample,
    find_device,
)

__all__ = ["DeviceNotFoundError", "NvmlReading", "NvmlSampler", "find_device"]

# Bits of NVML's clock event reasons that mean throttling: name and cause of each.
THROTTLES = {
    0x04: ("software power cap", "power"),
    0x08: ("hardware slowdown", "heat or power"),
    0x20: ("software thermal slowdown", "heat"),
    0x40: ("hardware thermal slowdown", "heat"),
    0x80: ("hardware power brake", "power"),
}


# A card at its power limit reports the power cap now and then; below this share of the samples that is normal.
POWER_CAP, NORMAL_POWER_CAP = 0x04, 0.1
# Seconds: for how long an update of the energy counter is waited for, and how often it is looked at.
TICK_LIMIT = 0.3
TICK_POLL = 0.002
# A period without a sample of its own that is shorter than this, in seconds, holds no training: the meters end right
# after a pause.
NO_PERIOD = 0.01


@dataclass(frozen=True)
class NvmlReading:
    """Summary of the samples of a block; None is a value that the driver did not report.

    Memory values are peaks in bytes. `process_bytes` is the memory of this process, CUDA context included, and None if
    any sample gave a reason for doubt, such as 0 bytes, or less than the process holds; the reason is a warning.
    `device_bytes` is the memory of all processes. It excludes `reserved_bytes`, which the driver keeps for itself,
    unless `memory_info` is "v1": an old driver that counts both together. Utilisation is the percentage of time in
    which any kernel ran. `throttled` is the share of samples in which each reason held. `energy_source` is "counter"
    for the card's energy counter, whose updates (about every 100 ms) are waited for at both ends of a pause, or "power"
    for the integral of the sampled power. Energy is None if the time between pauses is short and its ends are not known
    well enough (`bench.measure.energy`). `power_is_instantaneous` is False if power is a mean over a second. On a slice
    of a card (MIG) power and utilisation are unknown. `seconds` is the sampled time without pauses.
    """

    name: str | None
    uuid: str
    mig: bool
    seconds: float
    samples: int
    process_bytes: int | None
    device_bytes: int | None
    reserved_bytes: int | None
    total_bytes: int | None
    memory_info: MemoryInfo | None
    utilisation_mean: float | None
    utilisation_peak: float | None
    power_mean_watts: float | None
    power_peak_watts: float | None
    sm_clock_mean_mhz: float | None
    sm_clock_lowest_mhz: float | None
    temperature_peak_celsius: float | None
    throttled: dict[str, float] | None
    energy_joules: float | None
    energy_source: Literal["counter", "power"] | None
    other_processes: int | None
    other_bytes: int | None
    warnings: tuple[str, ...]
    power_is_instantaneous: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Values for the `nvml` entry of a record."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NvmlReading:
        """Inverse of :meth:`as_dict`, also after a round trip through JSON."""
        return cls(**{**values, "warnings": tuple(values["warnings"])})


class NvmlSampler:
    """Context that samples one device; afterwards `reading` is set, or it is None and `reason` says why.

    Args:
        uuid: torch's UUID of the device, `str(torch.cuda.get_device_properties(device).uuid)`; None if unknown.
        interval: seconds between samples; further samples are taken at both ends of the block and of every pause.
        index: CUDA's number of the device, used if the UUID is unknown.
        pynvml: the module; None for that of `nvidia-ml-py`.
        now: a clock in seconds.
        sleep: function that waits for so many seconds.
        held: function that returns the bytes of the device that this process holds at least; None if unknown.
    """

    def __init__(
        self,
        uuid: str | None = None,
        interval: float = 0.05,
        *,
        index: int = 0,
        pynvml: Any = None,
        now: Callable[[], float] = monotonic,
        sleep: Callable[[float], None] = sleep,
        held: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.reading: NvmlReading | None = None
        self.reason: str | None = None
        self._uuid, self._interval, self._index, self._nvml, self._now = uuid, interval, index, pynvml, now
        self._held, self._sleep = held, sleep
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._paused = True
        self._failure: str | None = None
        self._device: Device | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> NvmlSampler:
        """Find the device, take the first sample and start the thread."""
        self._device = self._open()
        if self._device is not None:
            self._probe = Probe(self._nvml, self._device, self._held)
            self._totals = _Totals()
            self._begin()
            self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the thread, take the last sample and set `reading`."""
        if self._device is None or self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._end()
        self.reading = self._totals.reading(self._device, self._probe, self._failure)
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def so_far(self) -> NvmlReading | None:
        """Reading of the samples up to now, or of the whole block after its end; takes no sample."""
        if self._device is None or self.reading is not None:
            return self.reading
        with self._lock:
            return self._totals.reading(self._device, self._probe, self._failure)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time, such as an evaluation, is left out of all values, energy included.

        Waits for an update of the energy counter before and after the block. Inside another pause it does nothing.
        """
        if self._device is None or self._paused:
            yield
            return
        self._end()
        try:
            yield
        finally:
            self._begin()

    def _begin(self) -> None:
        """Start a period at an update of the energy counter."""

        def begin() -> None:
            ticked = self._wait_for_tick()
            sample = self._probe.sample()
            self._totals.begin(self._now(), sample, ticked)

        self._safely(begin)
        self._paused = False

    def _end(self) -> None:
        """End a period, and its energy at the next update of the energy counter."""
        self._paused, was_paused = True, self._paused

        def end() -> None:
            at = self._now()
            if not self._totals.end(at, self._probe.sample()) or self._probe.energy() is None:
                return
            ticked = self._wait_for_tick()
            waited, counter, watts = self._now() - at, self._probe.energy(), self._probe.power()
            idle = waited * watts if watts is not None and self._probe.power_is_instantaneous else 0.0
            self._totals.settle(counter, idle, ticked)

        if not was_paused:
            self._safely(end)

    def _wait_for_tick(self) -> bool:
        """Wait until the energy counter is updated; False if it was not, or the driver does not report it."""
        before = self._probe.energy()
        if before is None:
            return False
        started = self._now()
        while self._now() - started < TICK_LIMIT:
            self._sleep(TICK_POLL)
            if self._probe.energy() != before:
                return True
        return False

    def _open(self) -> Device | None:
        if self._nvml is None:
            try:
                self._nvml = importlib.import_module("pynvml")
            except ImportError:
                self.reason = "nvidia-ml-py is not installed"
                return None
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            self.reason = f"NVML: {error}"
            return None
        try:
            visible, order = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER")
            return find_device(self._nvml, visible, self._index, self._uuid, pci_order=order == "PCI_BUS_ID")
        except (DeviceNotFoundError, self._nvml.NVMLError) as error:
            self.reason = f"NVML: {error}"
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            return None

    def _run(self) -> None:
        while not self._stop.wait(self._interval):
            self._take()

    def _take(self) -> None:
        def take() -> None:
            if not self._paused:
                self._totals.add(self._now(), self._probe.sample())

        self._safely(take)

    def _safely(self, action: Callable[[], None]) -> None:
        """Do something with the device; an error ends the sampling and is kept for the reading."""
        if self._device is None or self._failure is not None:
            return
        with self._lock:
            try:
                action()
            except Exception as error:  # an error in a thread is invisible, and a meter must not end the training
                self._failure = f"sampling the GPU stopped early: {type(error).__name__}: {error}"


class _Tally:
    """Sum, extremes and count of the known values."""

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self.highest: Any = None
        self.lowest: Any = None

    def add(self, value: float | None) -> None:
        if value is None:
            return
        self.count += 1
        self._sum += value
        self.highest = value if self.highest is None else max(self.highest, value)
        self.lowest = value if self.lowest is None else min(self.lowest, value)

    @property
    def mean(self) -> float | None:
        return self._sum / self.count if self.count else None


class _Totals:
    """Running totals of the samples, so that memory use does not grow with the length of a training."""

    def __init__(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._periods = 0
        self._begun = 0.0
        self._last: float | None = None
        self._tallies = {name: _Tally() for name in Sample.__dataclass_fields__ if name not in ("memory_info", "doubt")}
        self._doubts: dict[str, None] = {}
        self._memory_info: MemoryInfo | None = None
        self._throttled = dict.fromkeys((name for name, _ in THROTTLES.values()), 0)
        self._energy = EnergyTotals()

    def begin(self, at: float, sample: Sample, ticked: bool) -> None:
        """Start a new period, if possible just after an update (`ticked`) of the energy counter."""
        self._last = None
        self._begun = at
        self._periods += 1
        self._energy.begin(ticked)
        self.add(at, sample)

    def end(self, at: float, sample: Sample) -> bool:
        """End a period; False if it was too short to hold anything, and is left out."""
        if self._last == self._begun and at - self._begun < NO_PERIOD:
            self._periods -= 1
            return False
        self.add(at, sample)
        return True

    def settle(self, counter: int | None, idle: float, ticked: bool) -> None:
        """End the energy of the period; see :meth:`EnergyTotals.settle`."""
        self._energy.settle(counter, idle, ticked)

    def add(self, at: float, sample: Sample) -> None:
        self._samples += 1
        self._seconds += 0.0 if self._last is None else at - self._last
        self._last = at
        for name, tally in self._tallies.items():
            tally.add(getattr(sample, name))
        self._memory_info = sample.memory_info or self._memory_info
        if sample.doubt is not None:
            self._doubts[sample.doubt] = None
        for bit, (name, _) in THROTTLES.items():
            self._throttled[name] += bool((sample.reasons or 0) & bit)
        self._energy.add(at, sample.energy, sample.power)

    def reading(self, device: Device, probe: Probe, failure: str | None) -> NvmlReading:
        tally = self._tallies
        instantaneous = probe.power_is_instantaneous if tally["power"].count else None
        joules, source = self._energy.joules(self._seconds / max(1, self._periods))
        known = tally["reasons"].count
        return NvmlReading(
            name=probe.name(),
            uuid=device.uuid,
            mig=device.mig,
            seconds=self._seconds,
            samples=self._samples,
            process_bytes=None if self._doubts else tally["process"].highest,
            device_bytes=tally["used"].highest,
            reserved_bytes=tally["reserved"].highest,
            total_bytes=tally["total"].highest,
            memory_info=self._memory_info,
            utilisation_mean=tally["utilisation"].mean,
            utilisation_peak=tally["utilisation"].highest,
            power_mean_watts=tally["power"].mean,
            power_peak_watts=tally["power"].highest,
            sm_clock_mean_mhz=tally["sm_clock"].mean,
            sm_clock_lowest_mhz=tally["sm_clock"].lowest,
            temperature_peak_celsius=tally["temperature"].highest,
            throttled={reason: count / known for reason, count in self._throttled.items()} if known else None,
            energy_joules=joules,
            energy_source=source,
            other_processes=tally["others"].highest,
            other_bytes=tally["others_bytes"].highest,
            warnings=tuple(self._warnings(failure)),
            power_is_instantaneous=instantaneous,
        )

    def _warnings(self, failure: str | None) -> Iterator[str]:
        if self._doubts:
            yield f"memory of this process on the GPU is unknown: {'; '.join(self._doubts)}"
        others, size = self._tallies["others"].highest, self._tallies["others_bytes"].highest
        if others:
            holding = f", holding up to {size / 2**30:.2f} GiB" if size else ""
            yield f"{others} other process{'es' if others > 1 else ''} on the GPU{holding}"
        known = self._tallies["reasons"].count
        for bit, (name, cause) in THROTTLES.items():
            count = self._throttled[name]
            share = count / known if known else 0.0
            if count and not (bit == POWER_CAP and (count == 1 or share < NORMAL_POWER_CAP)):
                yield f"the GPU was slowed down by {cause} ({name}) in {share:.0%} of the samples"
        if failure is not None:
            yield failure
