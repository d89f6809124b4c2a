"""The meters around a training, and what they say of one that several processes did one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import torch

from bench.measure.host import MachineWatch, peak_rss_bytes
from bench.measure.memory import allocator_peaks, reset_allocator_peaks
from bench.measure.nvml import NvmlReading, NvmlSampler

PEAKS = ("process_bytes", "device_bytes", "reserved_bytes", "total_bytes", "utilisation_peak", "power_peak_watts",
         "temperature_peak_celsius", "other_processes", "other_bytes")  # fmt: skip
MEANS = ("utilisation_mean", "power_mean_watts", "sm_clock_mean_mhz")


@dataclass(frozen=True)
class MeterReadings:
    """What the meters say of a stretch of training.

    Attributes:
        nvml: None on a CPU, and where there is no reading.
        peaks: columns of the row with the bytes that this process had at most; None is unknown.
        warnings: what makes the measurement doubtful.
    """

    nvml: NvmlReading | None
    peaks: Mapping[str, int | None]
    warnings: tuple[str, ...]

    def after(self, before: MeterReadings | None) -> MeterReadings:
        """Together with what an earlier process measured."""
        if before is None:
            return self
        peaks = {name: _highest((before.peaks[name], peak)) for name, peak in self.peaks.items()}
        warnings = dict.fromkeys((*before.warnings, *self.warnings))
        return MeterReadings(joined(before.nvml, self.nvml), peaks, tuple(warnings))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeterReadings:
        """The inverse of :meth:`as_dict`, also by way of JSON."""
        nvml = None if values["nvml"] is None else NvmlReading.from_dict(values["nvml"])
        return cls(nvml, dict(values["peaks"]), tuple(values["warnings"]))


class TrainingMeters:
    """NVML on a GPU, and the machine, while the block runs; the clock is the loop's own.

    Args:
        before: what was measured before this process took over.
    """

    def __init__(self, device: torch.device, before: MeterReadings | None = None):
        self._device, self._before = device, before
        # A card that the cell does not run on is nobody's business.
        self._sampler = NvmlSampler(_uuid(device), index=device.index or 0) if device.type == "cuda" else None
        self._machine = MachineWatch()
        self._stack = ExitStack()
        self._peaks: dict[str, int | None] = {"peak_allocated_bytes": None, "peak_reserved_bytes": None}
        self._running = False

    def __enter__(self) -> TrainingMeters:
        """Starts them."""
        if self._sampler is not None:
            self._stack.enter_context(self._sampler)
        self._stack.enter_context(self._machine)
        self._running = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stops them; what they say stays."""
        self._note_peaks()
        self._running = False
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what the block does, an evaluation say, out of NVML's figures and the allocator's peaks.

        What the allocator reserved in the block it keeps, so that much of it stays in the reserved peak.
        """
        self._note_peaks()
        try:
            with nullcontext() if self._sampler is None else self._sampler.paused():
                yield
        finally:
            reset_allocator_peaks(self._device)

    def _note_peaks(self) -> None:
        if self._running:
            for name, peak in zip(self._peaks, allocator_peaks(self._device), strict=True):
                self._peaks[name] = _highest((self._peaks[name], peak))

    def readings(self) -> MeterReadings:
        """What they say up to now, earlier processes included; of the host's memory it is the whole process's peak."""
        self._note_peaks()
        peaks = {**self._peaks, "peak_rss_bytes": peak_rss_bytes()}
        nvml, warnings = None, list(self._machine.warnings)
        if self._sampler is not None:
            nvml = self._sampler.so_far()
            warnings += [f"no figures from NVML: {self._sampler.reason}"] if nvml is None else nvml.warnings
        return MeterReadings(nvml, peaks, tuple(warnings)).after(self._before)


def memory_columns(measured: MeterReadings, account: int | None) -> dict[str, Any]:
    """The columns of the row that say what memory, and energy, training took.

    Args:
        account: bytes of live tensors at the peak of a step such as those that were measured; None is unknown.
    """
    nvml = measured.nvml
    columns: dict[str, Any] = {
        **measured.peaks,
        "nvml_process_bytes": None if nvml is None else nvml.process_bytes,
        "nvml_device_bytes": None if nvml is None else nvml.device_bytes,
        "energy_joules": None if nvml is None else nvml.energy_joules,
    }
    # What a user must have free on the card: NVML's figure for this process where the driver tells it, else what torch
    # reserved. On the CPU the account, which does not depend on the allocator.
    sources = {name: columns[name] for name in ("nvml_process_bytes", "peak_reserved_bytes")} | {"account": account}
    source = next((name for name, peak in sources.items() if peak is not None), None)
    return {**columns, "peak_memory_bytes": source and sources[source], "memory_source": source}


def joined(first: NvmlReading | None, second: NvmlReading | None) -> NvmlReading | None:
    """The reading of two stretches of time together, of which None is unknown.

    Peaks and means are over what is known. The energy is a sum and therefore known only where both parts are.
    """
    if first is None or second is None:
        known = first or second
        return known and replace(known, energy_joules=None, energy_source=None)
    both: dict[str, Any] = {name: _highest((getattr(first, name), getattr(second, name))) for name in PEAKS}
    both |= {
        name: _mean((getattr(first, name), first.samples), (getattr(second, name), second.samples)) for name in MEANS
    }
    both |= {name: getattr(first, name) + getattr(second, name) for name in ("seconds", "samples")}
    lowest = (first.sm_clock_lowest_mhz, second.sm_clock_lowest_mhz)
    both["sm_clock_lowest_mhz"] = min((clock for clock in lowest if clock is not None), default=None)
    both["throttled"] = first.throttled or second.throttled
    if first.throttled and second.throttled:
        shares = second.throttled
        both["throttled"] = {
            reason: _mean((share, first.samples), (shares[reason], second.samples))
            for reason, share in first.throttled.items()
        }
    both["warnings"] = tuple(dict.fromkeys((*first.warnings, *second.warnings)))
    return replace(second, **both, **_energy(first, second))


def _energy(first: NvmlReading, second: NvmlReading) -> dict[str, Any]:
    if first.energy_joules is None or second.energy_joules is None:
        return {"energy_joules": None, "energy_source": None}
    # Of two sources the sum is worth what the lesser one is.
    source = first.energy_source if first.energy_source == second.energy_source else "power"
    return {"energy_joules": first.energy_joules + second.energy_joules, "energy_source": source}


def _highest(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _mean(*parts: tuple[float | None, int]) -> float | None:
    """Of the known values, each with its number of samples."""
    known = [(value, count) for value, count in parts if value is not None]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else None


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)
