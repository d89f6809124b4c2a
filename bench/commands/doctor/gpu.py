"""The GPU that a matrix runs on, as its driver describes it before a run.

Source: NVML API reference (power limits, clock event reasons, ECC counters, MIG mode).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.commands.doctor.finding import GIB, Finding, Level, gib, ok, unknown
from bench.measure.nvml import THROTTLES
from bench.measure.nvml_device import Device, Probe, Sample

CHECKS = ("gpu users", "gpu memory", "persistence mode", "power cap", "clocks", "ecc", "mig")
# A context of this process takes up to about half a GiB; what is above that belongs to somebody else.
FOREIGN_BYTES = GIB
BUSY_PERCENT = 5
FREE_ENOUGH, FREE_TOO_LITTLE = 0.8, 0.5
CAP_WRONG = 0.75
CLOCKS_SET, POWER_CAP = 0x02, 0x04
_ALL_THROTTLES = sum(THROTTLES)
_NOT_SUPPORTED = 3
# NVML's numbers for errors that were not corrected, counted since the driver was loaded.
_UNCORRECTED, _SINCE_LOADED = 1, 0

_UNKNOWN_EFFECT = "whether it disturbs times or memory cannot be told"


@dataclass(frozen=True)
class _Answer:
    """What a function of the driver gave; ``value`` is None with ``why`` where it gave nothing."""

    value: Any
    why: str = ""
    has_none: bool = False


class Card:
    """One device, asked function by function."""

    def __init__(self, pynvml: Any, device: Device):
        self.nvml = pynvml
        self.device = device
        mismatch = getattr(pynvml, "NVMLLibraryMismatchError", pynvml.NVMLError)
        self._errors: tuple[type[Exception], ...] = (pynvml.NVMLError, mismatch)

    @property
    def smi(self) -> str:
        """The beginning of a command about this card."""
        return f"nvidia-smi -i {self.device.card}"

    def ask(self, function: str, *args: Any) -> _Answer:
        """Calls a function of NVML with the device's handle."""
        call = getattr(self.nvml, function, None)
        if call is None:
            return _Answer(None, f"the installed nvidia-ml-py has no {function}")
        try:
            return _Answer(call(self.device.handle, *args))
        except self._errors as error:
            none = getattr(error, "value", None) == _NOT_SUPPORTED
            return _Answer(None, f"the driver does not tell ({error})", has_none=none)


def examine_card(pynvml: Any, device: Device) -> list[Finding]:
    """All checks of a card, or of the slice of one that the matrix runs on.

    Args:
        pynvml: the module, after ``nvmlInit()``.
        device: as ``find_device`` found it.
    """
    card = Card(pynvml, device)
    sample = Probe(pynvml, device).sample()
    return [
        users(sample, card.smi),
        memory(sample, card.smi),
        persistence(card),
        power_cap(card),
        clocks(card, sample),
        ecc(card),
        mig(card),
    ]


def unasked(why: str) -> list[Finding]:
    """The same checks where the driver cannot be asked about the card."""
    return [unknown(check, why, _UNKNOWN_EFFECT, "nvidia-smi -q") for check in CHECKS]


def users(sample: Sample, smi: str) -> Finding:
    """Who else is on the card."""
    check = "gpu users"
    mend = f"{smi} --query-compute-apps=pid,process_name,used_memory --format=csv"
    effect = "kernels and memory traffic of others make steps slower, and not by the same amount for every method"
    busy = sample.utilisation is not None and sample.utilisation > BUSY_PERCENT
    state = "utilisation unknown" if sample.utilisation is None else f"utilisation {sample.utilisation} %"
    if sample.others:
        held = "" if sample.others_bytes is None else f" holding {gib(sample.others_bytes)}"
        what = f"{sample.others} other process{'es' if sample.others > 1 else ''} on the GPU{held}, {state}"
        return Finding(check, "wrong" if busy else "warning", what, effect, mend)
    if sample.others is None:
        unseen = "the driver does not list this process, so it hides others too"
        if busy:
            return Finding(check, "wrong", f"{unseen}, and the GPU is at work: {state}", effect, mend)
        if sample.used is not None and sample.used > FOREIGN_BYTES:
            return Finding(check, "warning", f"{unseen}, and {gib(sample.used)} are in use, {state}", effect, mend)
        return unknown(check, f"{unseen}; {state}", effect, mend)
    return ok(check, f"no other process on the GPU, {state}")


def memory(sample: Sample, smi: str) -> Finding:
    """How much of the card's memory is free."""
    check = "gpu memory"
    mend = f"{smi} --query-compute-apps=pid,process_name,used_memory --format=csv"
    if sample.used is None or not sample.total:
        return unknown(check, "the driver does not tell the memory in use", _UNKNOWN_EFFECT, f"{smi} -q -d MEMORY")
    free = sample.total - sample.used
    what = f"{gib(free)} of {gib(sample.total)} free"
    if free >= FREE_ENOUGH * sample.total:
        return ok(check, what)
    level: Level = "wrong" if free < FREE_TOO_LITTLE * sample.total else "warning"
    effect = "cells that would fit end as oom, and the device's memory figure counts what others hold"
    return Finding(check, level, what, effect, mend)


def persistence(card: Card) -> Finding:
    """Whether the driver stays loaded between cells."""
    check, effect = "persistence mode", "the driver is loaded anew for each cell: set-up is longer and clocks start low"
    answer = card.ask("nvmlDeviceGetPersistenceMode")
    if answer.value is None:
        return unknown(check, answer.why, effect, f"{card.smi} -q | grep Persistence")
    if answer.value:
        return ok(check, "on")
    return Finding(check, "warning", "off", effect, f"sudo {card.smi} -pm 1")


def power_cap(card: Card) -> Finding:
    """The enforced power limit against the card's own."""
    check, effect = (
        "power cap",
        "under load the clock is lowered to stay below it: steps take longer than on other cards",
    )
    cap, usual = card.ask("nvmlDeviceGetEnforcedPowerLimit"), card.ask("nvmlDeviceGetPowerManagementDefaultLimit")
    if cap.value is None or usual.value is None:
        return unknown(check, cap.why or usual.why, effect, f"{card.smi} -q -d POWER")
    what = f"{cap.value / 1000:.0f} W of {usual.value / 1000:.0f} W"
    if cap.value >= usual.value:
        return ok(check, what)
    level: Level = "wrong" if cap.value < CAP_WRONG * usual.value else "warning"
    return Finding(check, level, what, effect, f"sudo {card.smi} -pl {usual.value / 1000:.0f}")


def clocks(card: Card, sample: Sample) -> Finding:
    """What holds the clock back at this moment."""
    check, effect = "clocks", "steps take longer than the card could do them, and how much longer changes with time"
    highest = card.ask("nvmlDeviceGetMaxClockInfo", card.nvml.NVML_CLOCK_SM).value
    what = f"SM clock {_mhz(sample.sm_clock)} of {_mhz(highest)}"
    if sample.temperature is not None:
        what += f" at {sample.temperature} °C"
    if sample.reasons is None:
        why = f"the driver does not tell what holds the clock back; {what}"
        return unknown(check, why, effect, f"{card.smi} -q -d PERFORMANCE,CLOCK")
    held = [name for bit, (name, _) in THROTTLES.items() if sample.reasons & bit]
    if held:
        # Some cards at rest report the power cap as the reason for being slow; heat or a brake is never normal.
        level: Level = "warning" if sample.reasons & _ALL_THROTTLES == POWER_CAP else "wrong"
        mend = f"{card.smi} -q -d PERFORMANCE,TEMPERATURE,POWER"
        return Finding(check, level, f"{what}, held back: {', '.join(held)}", effect, mend)
    if sample.reasons & CLOCKS_SET:
        effect = "the clock is set by hand: times are steady but are not those of a card left to itself"
        mend = f"sudo {card.smi} -rgc && sudo {card.smi} -rac"
        return Finding(check, "warning", f"{what}, set by an application or by hand", effect, mend)
    return ok(check, f"{what}, nothing holds it back now")


def ecc(card: Card) -> Finding:
    """Memory errors are corrected, and there were none that could not be."""
    check = "ecc"
    mode = card.ask("nvmlDeviceGetEccMode")
    if mode.has_none:
        return ok(check, "this device has no ECC to switch")
    look = f"{card.smi} -q -d ECC"
    if mode.value is None:
        return unknown(check, mode.why, "errors in memory would go unnoticed", look)
    current, pending = mode.value
    if not current:
        effect = "errors in memory go unnoticed, and memory is a little larger and faster than on cards with ECC"
        if pending:
            return Finding(check, "warning", "off, and on after the next reset", effect, "sudo reboot")
        return Finding(check, "warning", "off", effect, f"sudo {card.smi} -e 1")
    errors = card.ask("nvmlDeviceGetTotalEccErrors", _UNCORRECTED, _SINCE_LOADED)
    if errors.value is None:
        return unknown(check, f"on, but the count of errors is not: {errors.why}", "a bad cell may be in use", look)
    if errors.value:
        effect = "values in memory were damaged: losses and accuracy may be wrong, processes may be ended"
        return Finding(
            check, "wrong", f"on, {errors.value} uncorrected errors since the driver was loaded", effect, look
        )
    return ok(check, "on, no uncorrected errors since the driver was loaded")


def mig(card: Card) -> Finding:
    """Whether the matrix has a whole card."""
    check = "mig"
    if card.device.mig:
        effect = (
            "power, utilisation and energy of a slice are not known, and other slices share the card's power and "
            "clock: compare with runs on the same kind of slice"
        )
        return Finding(check, "warning", "the matrix runs on a slice of a card", effect, f"sudo {card.smi} -mig 0")
    mode = card.ask("nvmlDeviceGetMigMode")
    if mode.has_none:
        return ok(check, "this card cannot be sliced")
    if mode.value is None:
        return unknown(
            check, mode.why, "a slice has a part of the card's units and memory", f"{card.smi} -q | grep MIG"
        )
    if mode.value[0]:
        effect = "CUDA cannot use a card in this mode but through its slices: the run fails or lands on the CPU"
        return Finding(check, "wrong", "on, and the matrix names no slice", effect, f"sudo {card.smi} -mig 0")
    return ok(check, "off, the whole card")


def _mhz(clock: int | None) -> str:
    return "unknown" if clock is None else f"{clock} MHz"
