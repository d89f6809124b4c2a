"""Checks of the GPU that a matrix runs on, as the driver describes it before a run.

Source: NVML API reference (power limits, clock event reasons, ECC counters, MIG mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.commands.doctor.finding import GIB, Finding, Level, gib, ok, unknown
from bench.measure.nvml import THROTTLES
from bench.measure.nvml_device import Device, Probe, Sample

CHECKS = ("gpu users", "gpu memory", "persistence mode", "power cap", "clocks", "ecc", "mig")
# The CUDA context of this process takes up to about half a GiB; memory above this limit belongs to other processes.
FOREIGN_BYTES = GIB
BUSY_PERCENT = 5
FREE_ENOUGH, FREE_TOO_LITTLE = 0.8, 0.5
CAP_WRONG = 0.75
CLOCKS_SET, POWER_CAP = 0x02, 0x04
_ALL_THROTTLES = sum(THROTTLES)
_NOT_SUPPORTED = 3
# NVML's constants for uncorrected errors, counted since the driver was loaded.
_UNCORRECTED, _SINCE_LOADED = 1, 0

_UNKNOWN_EFFECT = "a disturbance of times or memory may go unnoticed"


@dataclass(frozen=True)
class _Answer:
    """Answer of a function of NVML.

    Attributes:
        value: result of the function; None if it failed.
        why: reason of the failure.
        unsupported: True if the device does not have the feature.
    """

    value: Any
    why: str = ""
    unsupported: bool = False


class Card:
    """A device and the functions of NVML on it."""

    def __init__(self, pynvml: Any, device: Device):
        self.nvml = pynvml
        self.device = device
        mismatch = getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError)
        self._errors: tuple[type[Exception], ...] = (pynvml.NVMLError, mismatch)

    @property
    def smi(self) -> str:
        """Beginning of an nvidia-smi command about this card."""
        return f"nvidia-smi -i {self.device.card}"

    def ask(self, function: str, *args: Any) -> _Answer:
        """Calls a function of NVML with the device's handle; errors become part of the answer."""
        call = getattr(self.nvml, function, None)
        if call is None:
            return _Answer(None, f"the installed nvidia-ml-py has no {function}")
        try:
            return _Answer(call(self.device.handle, *args))
        except self._errors as error:
            unsupported = getattr(error, "value", None) == _NOT_SUPPORTED
            return _Answer(None, f"the driver does not report it ({error})", unsupported)


def examine_card(pynvml: Any, device: Device) -> list[Finding]:
    """Findings on a card, or on the MIG slice that the matrix runs on.

    Args:
        pynvml: the NVML module, after ``nvmlInit()``.
        device: the device, from ``find_device``.
    """
    card = Card(pynvml, device)
    sample = Probe(pynvml, device).sample()
    return [
        other_processes(sample, card.smi),
        memory(sample, card.smi),
        persistence(card),
        power_cap(card),
        clocks(card, sample),
        ecc(card),
        mig(card),
    ]


def unknown_card(why: str) -> list[Finding]:
    """Findings of level unknown for every check of a card, if NVML does not answer."""
    return [unknown(check, why, _UNKNOWN_EFFECT, "nvidia-smi -q") for check in CHECKS]


def other_processes(sample: Sample, smi: str) -> Finding:
    """Other processes that use the card."""
    check = "gpu users"
    mend = f"{smi} --query-compute-apps=pid,process_name,used_memory --format=csv"
    effect = "kernels and memory traffic of other processes slow steps down, by a different amount for each method"
    busy = sample.utilisation is not None and sample.utilisation > BUSY_PERCENT
    state = "utilisation unknown" if sample.utilisation is None else f"utilisation {sample.utilisation} %"
    if sample.others:
        held = "" if sample.others_bytes is None else f" holding {gib(sample.others_bytes)}"
        what = f"{sample.others} other process{'es' if sample.others > 1 else ''} on the GPU{held}, {state}"
        return Finding(check, "wrong" if busy else "warning", what, effect, mend)
    if sample.others is None:
        unseen = "the driver does not list this process, so it may hide other processes, too"
        if busy:
            return Finding(check, "wrong", f"{unseen}, and the GPU is busy: {state}", effect, mend)
        if sample.used is not None and sample.used > FOREIGN_BYTES:
            return Finding(check, "warning", f"{unseen}, and {gib(sample.used)} are in use, {state}", effect, mend)
        return unknown(check, f"{unseen}; {state}", effect, mend)
    return ok(check, f"no other process on the GPU, {state}")


def memory(sample: Sample, smi: str) -> Finding:
    """Free memory of the card."""
    check = "gpu memory"
    mend = f"{smi} --query-compute-apps=pid,process_name,used_memory --format=csv"
    if sample.used is None or not sample.total:
        return unknown(check, "the driver does not report the memory in use", _UNKNOWN_EFFECT, f"{smi} -q -d MEMORY")
    free = sample.total - sample.used
    what = f"{gib(free)} of {gib(sample.total)} free"
    if free >= FREE_ENOUGH * sample.total:
        return ok(check, what)
    level: Level = "wrong" if free < FREE_TOO_LITTLE * sample.total else "warning"
    effect = "cells that would fit end as oom, and the memory measured for the device includes other processes"
    return Finding(check, level, what, effect, mend)


def persistence(card: Card) -> Finding:
    """Persistence mode: on if the driver stays loaded between cells."""
    check, effect = "persistence mode", "each cell loads the driver again: set-up takes longer and clocks start low"
    answer = card.ask("nvmlDeviceGetPersistenceMode")
    if answer.value is None:
        return unknown(check, answer.why, effect, f"{card.smi} -q | grep Persistence")
    if answer.value:
        return ok(check, "on")
    return Finding(check, "warning", "off", effect, f"sudo {card.smi} -pm 1")


def power_cap(card: Card) -> Finding:
    """Enforced power limit against the card's default."""
    check = "power cap"
    effect = "under load the card lowers its clock to stay below the cap: steps take longer than on uncapped cards"
    cap, usual = card.ask("nvmlDeviceGetEnforcedPowerLimit"), card.ask("nvmlDeviceGetPowerManagementDefaultLimit")
    if cap.value is None or usual.value is None:
        return unknown(check, cap.why or usual.why, effect, f"{card.smi} -q -d POWER")
    what = f"{cap.value / 1000:.0f} W of {usual.value / 1000:.0f} W"
    if cap.value >= usual.value:
        return ok(check, what)
    level: Level = "wrong" if cap.value < CAP_WRONG * usual.value else "warning"
    return Finding(check, level, what, effect, f"sudo {card.smi} -pl {usual.value / 1000:.0f}")


def clocks(card: Card, sample: Sample) -> Finding:
    """Current clock of the card and the reasons that hold it down."""
    check, effect = "clocks", "steps take longer than at full clock, by an amount that changes with time"
    highest = card.ask("nvmlDeviceGetMaxClockInfo", card.nvml.NVML_CLOCK_SM).value
    what = f"SM clock {_mhz(sample.sm_clock)} of {_mhz(highest)}"
    if sample.temperature is not None:
        what += f" at {sample.temperature} °C"
    if sample.reasons is None:
        why = f"the driver does not report what holds the clock down; {what}"
        return unknown(check, why, effect, f"{card.smi} -q -d PERFORMANCE,CLOCK")
    held = [name for bit, (name, _) in THROTTLES.items() if sample.reasons & bit]
    if held:
        # Some idle cards report the power cap as the reason for a low clock; heat or a hardware brake is never normal.
        level: Level = "warning" if sample.reasons & _ALL_THROTTLES == POWER_CAP else "wrong"
        mend = f"{card.smi} -q -d PERFORMANCE,TEMPERATURE,POWER"
        return Finding(check, level, f"{what}, held down: {', '.join(held)}", effect, mend)
    if sample.reasons & CLOCKS_SET:
        effect = "times are steady, but differ from a card that sets its own clock"
        mend = f"sudo {card.smi} -rgc && sudo {card.smi} -rac"
        return Finding(check, "warning", f"{what}, set by an application or by hand", effect, mend)
    return ok(check, f"{what}, nothing holds it down now")


def ecc(card: Card) -> Finding:
    """Error correction of the card's memory, and its count of uncorrected errors."""
    check = "ecc"
    mode = card.ask("nvmlDeviceGetEccMode")
    if mode.unsupported:
        return ok(check, "this device has no ECC setting")
    look = f"{card.smi} -q -d ECC"
    if mode.value is None:
        return unknown(check, mode.why, "memory errors may go unnoticed", look)
    current, pending = mode.value
    if not current:
        effect = "memory errors go unnoticed, and memory is a little larger and faster than on cards with ECC"
        if pending:
            return Finding(check, "warning", "off now, on after the next reset", effect, "sudo reboot")
        return Finding(check, "warning", "off", effect, f"sudo {card.smi} -e 1")
    errors = card.ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _SINCE_LOADED)
    if errors.value is None:
        effect = "values in memory may be damaged"
        return unknown(check, f"ECC is on, but its error count cannot be read: {errors.why}", effect, look)
    if errors.value:
        effect = "values in memory were damaged: losses and accuracy may be wrong, processes may be killed"
        return Finding(
            check, "wrong", f"on, {errors.value} uncorrected errors since the driver was loaded", effect, look
        )
    return ok(check, "on, no uncorrected errors since the driver was loaded")


def mig(card: Card) -> Finding:
    """MIG mode: whether the matrix runs on a whole card or on a slice."""
    check = "mig"
    if card.device.mig:
        effect = (
            "power, utilisation and energy of a slice cannot be measured, and other slices share the card's power and "
            "clock: compare only with runs on the same kind of slice"
        )
        return Finding(check, "warning", "the matrix runs on a slice of a card", effect, f"sudo {card.smi} -mig 0")
    mode = card.ask("nvmlDeviceGetMigMode")
    if mode.unsupported:
        return ok(check, "this card cannot be sliced")
    if mode.value is None:
        effect = "the matrix may run on a slice, with a part of the card's units and memory"
        return unknown(check, mode.why, effect, f"{card.smi} -q | grep MIG")
    return ok(check, "off, the whole card")


def no_slice(why: str) -> Finding:
    """The card is divided, and the matrix names no slice."""
    effect = (
        "CUDA takes the first slice or none, and power, energy and memory stay empty because the slice is not known"
    )
    return Finding("mig", "wrong", f"on, and the matrix names no slice: {why}", effect, "nvidia-smi -L")


def _mhz(clock: int | None) -> str:
    return "unknown" if clock is None else f"{clock} MHz"
