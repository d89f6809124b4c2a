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
from time import monotonic
from types import TracebackType
from typing import Any, Literal

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


@dataclass(frozen=True)
class NvmlReading:
    """Summary of the samples of a block; None is a value that the driver did not report.

    Memory values are peaks in bytes. `process_bytes` is the memory of this process, CUDA context included, and None if
    any sample gave a reason for doubt, such as 0 bytes, or less than the process holds; the reason is a warning.
    `device_bytes` is the memory of all processes. It excludes `reserved_bytes`, which the driver keeps for itself,
    unless `memory_info` is "v1": an old driver that counts both together. Utilisation is the percentage of time in
    which any kernel ran. `throttled` is the share of samples in which each reason held. `energy_source` is "counter"
    for the card's energy counter, which is updated about every 100 ms, or "power" for the integral of the sampled
    power. On a slice of a card (MIG) power and utilisation are unknown. `seconds` is the sampled time without pauses.
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
        held: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.reading: NvmlReading | None = None
        self.reason: str | None = None
        self._uuid, self._interval, self._index, self._nvml, self._now = uuid, interval, index, pynvml, now
        self._held = held
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._paused = False
        self._failure: str | None = None
        self._device: Device | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> NvmlSampler:
        """Find the device, take the first sample and start the thread."""
        self._device = self._open()
        if self._device is not None:
            self._probe = Probe(self._nvml, self._device, self._held)
            self._totals = _Totals()
            self._take()
            self._thread = threading.Thread(target=self._run, name="nvml", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the thread, take the last sample and set `reading`."""
        if self._device is None or self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._take()
        self.reading = self._totals.reading(self._device, self._probe.name(), self._failure)
        with suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def so_far(self) -> NvmlReading | None:
        """Reading of the samples up to now, or of the whole block after its end; takes no sample."""
        if self._device is None or self.reading is not None:
            return self.reading
        with self._lock:
            return self._totals.reading(self._device, self._probe.name(), self._failure)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time, such as an evaluation, is left out of all values, energy included."""
        self._take()
        with self._lock:
            self._paused = True
        try:
            yield
        finally:
            with self._lock:
                self._paused = False
                if self._device is not None:
                    self._totals.begin()
            self._take()

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
        if self._device is None or self._failure is not None:
            return
        with self._lock:
            if self._paused:
                return
            try:
                self._totals.add(self._now(), self._probe.sample())
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


class _Energy:
    """Energy over periods of time, by the card's counter and by the integral of power."""

    def __init__(self) -> None:
        self._counted = 0
        self._counter_valid = True
        self._counter: int | None = None
        self._integral: float | None = None
        self._power: tuple[float, float] | None = None

    def begin(self) -> None:
        """Start a new period; energy since the last sample is not counted."""
        self._counter = self._power = None

    def add(self, at: float, sample: Sample) -> None:
        if sample.energy is None:
            self._counter_valid = False
        elif self._counter is not None:
            # A counter that goes backwards has wrapped or was reset; the energy counted in between is lost.
            self._counter_valid = self._counter_valid and sample.energy >= self._counter
            self._counted += sample.energy - self._counter
        self._counter = sample.energy
        if sample.power is None:
            return
        if self._power is not None:
            since, before = self._power
            self._integral = (self._integral or 0.0) + (at - since) * (before + sample.power) / 2
        self._power = (at, sample.power)

    def joules(self) -> tuple[float | None, Literal["counter", "power"] | None]:
        # A counter that has not moved means only that the time was shorter than its update interval.
        if self._counter_valid and self._counted > 0:
            return self._counted / 1000, "counter"
        return (None, None) if self._integral is None else (self._integral, "power")


class _Totals:
    """Running totals of the samples, so that memory use does not grow with the length of a training."""

    def __init__(self) -> None:
        self._samples = 0
        self._seconds = 0.0
        self._last: float | None = None
        self._tallies = {name: _Tally() for name in Sample.__dataclass_fields__ if name not in ("memory_info", "doubt")}
        self._doubts: dict[str, None] = {}
        self._memory_info: MemoryInfo | None = None
        self._throttled = dict.fromkeys((name for name, _ in THROTTLES.values()), 0)
        self._energy = _Energy()

    def begin(self) -> None:
        """Start a new period after a pause."""
        self._last = None
        self._energy.begin()

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
        self._energy.add(at, sample)

    def reading(self, device: Device, name: str | None, failure: str | None) -> NvmlReading:
        tally = self._tallies
        joules, source = self._energy.joules()
        known = tally["reasons"].count
        return NvmlReading(
            name=name,
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
        )

    def _warnings(self, failure: str | None) -> Iterator[str]:
        if self._doubts:
            yield f"memory of this process on the GPU is unknown: {'; '.join(self._doubts)}"
        others, size = self._tallies["others"].highest, self._tallies["others_bytes"].highest
        if others:
            holding = f", holding up to {size / 2**30:.2f} GiB" if size else ""
            yield f"{others} other process{'es' if others > 1 else ''} on the GPU{holding}"
        known = self._tallies["reasons"].count
        for name, cause in THROTTLES.values():
            if self._throttled[name]:
                share = self._throttled[name] / known
                yield f"the GPU was slowed down by {cause} ({name}) in {share:.0%} of the samples"
        if failure is not None:
            yield failure
