"""Meters that run during training (NVML, machine, allocator), also across a training resumed by another process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import torch

from bench.measure.host import MachineWatch, peak_rss_bytes
from bench.measure.memory import allocator_peaks
from bench.measure.nvml import NvmlReading, NvmlSampler

PEAKS = ("process_bytes", "device_bytes", "reserved_bytes", "total_bytes", "utilisation_peak", "power_peak_watts",
         "temperature_peak_celsius", "other_processes", "other_bytes")  # fmt: skip
MEANS = ("utilisation_mean", "power_mean_watts", "sm_clock_mean_mhz")


@dataclass(frozen=True)
class MeterReadings:
    """Readings of the meters over a period of training.

    Attributes:
        nvml: reading of the GPU; None on a CPU or without a reading.
        peaks: peak bytes of this process by column of the row; None is unknown.
        warnings: disturbances that make the measurement doubtful.
    """

    nvml: NvmlReading | None
    peaks: Mapping[str, int | None]
    warnings: tuple[str, ...]

    def after(self, before: MeterReadings | None) -> MeterReadings:
        """Readings of an earlier process and these together."""
        if before is None:
            return self
        peaks = {name: _highest((before.peaks[name], peak)) for name, peak in self.peaks.items()}
        warnings = dict.fromkeys((*before.warnings, *self.warnings))
        return MeterReadings(merge_nvml(before.nvml, self.nvml), peaks, tuple(warnings))

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeterReadings:
        """Inverse of :meth:`as_dict`, also after a round trip through JSON."""
        nvml = None if values["nvml"] is None else NvmlReading.from_dict(values["nvml"])
        return cls(nvml, dict(values["peaks"]), tuple(values["warnings"]))


class TrainingMeters:
    """Context that runs the meters of NVML (on a GPU) and of the machine; the clock belongs to the training loop.

    Peaks of device memory (torch's allocated and reserved bytes, NVML's figures for the process and the device) are
    those of the steps before the first pause. Torch keeps the blocks that an evaluation needed, so afterwards its
    reserved bytes and NVML's figure would be those of the evaluation.

    Args:
        device: device of the training; other cards are not measured.
        before: readings of earlier processes of the same training; None if there are none.
    """

    def __init__(self, device: torch.device, before: MeterReadings | None = None):
        self._device, self._before = device, before
        self._sampler = _sampler(device) if device.type == "cuda" else None
        self._machine = MachineWatch()
        self._stack = ExitStack()
        self._peaks: dict[str, int | None] = {"peak_allocated_bytes": None, "peak_reserved_bytes": None}
        # Whether the first pause is still to come, and NVML's reading until then.
        self._before_pauses = False
        self._nvml_before_pauses: NvmlReading | None = None

    def __enter__(self) -> TrainingMeters:
        """Start the meters."""
        self._stack.enter_context(self._machine)
        if self._sampler is not None:
            self._stack.enter_context(self._sampler)
        self._before_pauses = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the meters; the readings stay available."""
        self._note_peaks()
        self._before_pauses = False
        self._stack.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose work, such as an evaluation, is left out of all readings."""
        self._note_peaks()
        first, self._before_pauses = self._before_pauses, False
        with nullcontext() if self._sampler is None else self._sampler.paused():
            if first and self._sampler is not None:
                self._nvml_before_pauses = self._sampler.so_far()
            yield

    def _note_peaks(self) -> None:
        if self._before_pauses:
            for name, peak in zip(self._peaks, allocator_peaks(self._device), strict=True):
                self._peaks[name] = _highest((self._peaks[name], peak))

    def readings(self) -> MeterReadings:
        """Readings up to now, earlier processes included; the peak of host memory is that of the whole process."""
        self._note_peaks()
        peaks = {**self._peaks, "peak_rss_bytes": peak_rss_bytes()}
        nvml, warnings = None, list(self._machine.warnings)
        if self._sampler is not None:
            nvml = _with_memory_of(self._sampler.so_far(), self._nvml_before_pauses)
            warnings += [f"no readings from NVML: {self._sampler.reason}"] if nvml is None else nvml.warnings
        return MeterReadings(nvml, peaks, tuple(warnings)).after(self._before)


def memory_columns(measured: MeterReadings, account: int | None) -> dict[str, Any]:
    """Columns of a row with the memory and energy of training.

    Args:
        measured: readings of the meters.
        account: bytes of live tensors at the peak of a training step, from the memory account; None if unknown.
    """
    nvml = measured.nvml
    process, reserved = None if nvml is None else nvml.process_bytes, measured.peaks["peak_reserved_bytes"]
    if process is not None and process < (reserved or 0):
        process = None  # of a resumed training NVML may know only the later part
    columns: dict[str, Any] = {
        **measured.peaks,
        "nvml_process_bytes": process,
        "nvml_device_bytes": None if nvml is None else nvml.device_bytes,
        "energy_joules": None if nvml is None else nvml.energy_joules,
    }
    # The memory that must be free on the card: NVML's value for this process if the driver reports it, else torch's
    # reserved peak. On the CPU the account, because it does not depend on the allocator.
    sources = {name: columns[name] for name in ("nvml_process_bytes", "peak_reserved_bytes")} | {"account": account}
    source = next((name for name, peak in sources.items() if peak is not None), None)
    return {**columns, "peak_memory_bytes": source and sources[source], "memory_source": source}


def merge_nvml(first: NvmlReading | None, second: NvmlReading | None) -> NvmlReading | None:
    """One reading for two successive periods; None is an unknown reading.

    Peaks and means are over the known values. Energy is a sum, so it is known only if it is known for both periods.
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
    # A sum of both sources is only as good as the integral of sampled power.
    source = first.energy_source if first.energy_source == second.energy_source else "power"
    return {"energy_joules": first.energy_joules + second.energy_joules, "energy_source": source}


def _with_memory_of(reading: NvmlReading | None, earlier: NvmlReading | None) -> NvmlReading | None:
    """A reading with the memory of an earlier one of the same training; without an earlier one, the reading itself."""
    if reading is None or earlier is None:
        return reading
    # A later doubt is about the number of the process, and so about the earlier figure too.
    known = reading.process_bytes is not None
    return replace(reading, process_bytes=earlier.process_bytes if known else None, device_bytes=earlier.device_bytes)


def _highest(values: Iterable[Any]) -> Any:
    return max((value for value in values if value is not None), default=None)


def _mean(*parts: tuple[float | None, int]) -> float | None:
    """Mean of the known values, each weighted by its number of samples; None if none is known."""
    known = [(value, count) for value, count in parts if value is not None]
    total = sum(count for _, count in known)
    return sum(value * count for value, count in known) / total if total else None


def _sampler(device: torch.device) -> NvmlSampler:
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return NvmlSampler(uuid, index=device.index or 0, held=lambda: torch.cuda.memory_reserved(device))
