"""Section on the plan: predictions of the plan command beside the measurements, and their differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.records.columns import MEMORY_PARTS
from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import Read, account, column, ended_ok, figure, mean
from reports.load.run_folders import Record
from reports.sections.compiled import of_eager_steps
from reports.text import amount, count, escape, listing, size, table

_SAME = "="


@dataclass(frozen=True)
class _Quantity:
    """Quantity that is planned and measured."""

    name: str
    planned: str
    """Key of the quantity in the plan."""
    measured: Read
    words: Callable[[float], str]
    why: Mapping[str, str]
    """Reason why plan and measurement may differ, by kind of device."""


def _flops(value: float) -> str:
    return amount(value, "FLOP")


_KERNELS = {
    "cpu": "no reason for a difference is known on a CPU, where both count the same operations",
    "cuda": "the plan counts the operations of a CPU; on a GPU autocast computes some of them in 32 bit, and the "
    "attention kernel keeps other tensors and computes some operations again",
}
_EXACT = dict.fromkeys(_KERNELS, "both count the same parameters, so one of the two numbers is wrong")
_FILES = dict.fromkeys(_KERNELS, "the plan counts the states alone; the file on disk also has a header")

_PEAK = _Quantity("peak memory", "peak_memory_bytes", account("peak_bytes"), size, _KERNELS)
_COUNTED = (
    _Quantity("trainable parameters", "trainable_params", column("trainable_params"), count, _EXACT),
    _Quantity("FLOPs forward", "flops_forward", column("flops_forward"), _flops, _KERNELS),
    _Quantity("FLOPs backward", "flops_backward", column("flops_backward"), _flops, _KERNELS),
    _Quantity("cache", "cache_bytes", column("cache_bytes"), size, _FILES),
)
_METERS = {
    "Allocated": column("peak_allocated_bytes"),
    "Reserved": column("peak_reserved_bytes"),
    "NVML process": column("nvml_process_bytes"),
}

Pairs = list[tuple[float, float]]
"""Planned and measured value, a pair per seed."""


def section(comparison: Comparison) -> str:
    """Tables of memory, parameters, FLOPs and cache, and the differences of plan and measurement."""
    planned = [method for method in comparison.methods if any(record.plan for record in ended_ok(comparison, method))]
    without = [method for method in comparison.methods if comparison.seeds(method) and method not in planned]
    missing = (
        f"The records of {listing([escape(method) for method in without])} hold no plan: records of earlier versions "
        "have none, and if a cell could not be planned, its stderr.txt says why."
        if without
        else ""
    )
    if not planned:
        return missing or "No cell ended ok."
    tables = _memory_table(comparison, planned), _counted_table(comparison, planned)
    parts = [_INTRODUCTION, of_eager_steps(comparison), *tables, _findings(comparison, planned)]
    return "\n\n".join(part for part in (*parts, missing) if part)


_INTRODUCTION = (
    "“Planned” is the prediction of the plan command for the probe step of a cell (the largest batch of the first "
    "epoch), computed from tensors that have sizes and no contents; no measurement goes into it. “Measured” is that "
    "step when it ran. Means are over the cells that have both. The number in brackets is measured divided by planned; "
    "= means that they are equal to the last digit in every cell."
)


def _memory_table(comparison: Comparison, methods: Sequence[str]) -> str:
    meters = {
        name: read
        for name, read in _METERS.items()
        if any(_pairs(comparison, method, _PEAK, read) for method in methods)
    }
    rows = [
        [
            escape(method),
            *_planned_and_measured(_pairs(comparison, method, _PEAK), size),
            *(_planned_and_measured(_pairs(comparison, method, _PEAK, read), size)[1] for read in meters.values()),
        ]
        for method in methods
    ]
    return table(["Method", "Peak memory, planned", "Account", *meters], rows)


def _counted_table(comparison: Comparison, methods: Sequence[str]) -> str:
    shown = [quantity for quantity in _COUNTED if any(_pairs(comparison, method, quantity) for method in methods)]
    header = ["Method"]
    for quantity in shown:
        header += [f"{quantity.name[0].upper()}{quantity.name[1:]}, planned", "measured"]
    rows = [
        [escape(method)]
        + [cell for one in shown for cell in _planned_and_measured(_pairs(comparison, method, one), one.words)]
        for method in methods
    ]
    return table(header, rows)


def _pairs(comparison: Comparison, method: str, quantity: _Quantity, read: Read | None = None) -> Pairs:
    """Planned and measured value of each cell that has both."""
    return [
        (before, after)
        for record in ended_ok(comparison, method)
        if (before := figure(record.plan, quantity.planned)) is not None
        and (after := (read or quantity.measured)(record)) is not None
    ]


def _planned_and_measured(pairs: Pairs, words: Callable[[float], str]) -> list[str]:
    before, after = (mean([pair[side] for pair in pairs]) for side in (0, 1))
    if before is None or after is None:
        return ["", ""]
    return [words(before), f"{words(after)} ({_apart(pairs)})"]


def _apart(pairs: Pairs) -> str:
    """Measured divided by planned, with as many digits as a difference needs to show."""
    if all(before == after for before, after in pairs):
        return _SAME
    before, after = (sum(pair[side] for pair in pairs) for side in (0, 1))
    if not before:
        return "planned none"
    if before == after:
        return "equal in the mean over seeds alone"
    texts = (f"{after / before:.{digits}f}" for digits in range(2, 17))
    return f"{next((text for text in texts if float(text) != 1), 'about 1')}×"


def _findings(comparison: Comparison, methods: Sequence[str]) -> str:
    """Quantities that agree to the last digit; for the others the methods, the ratios and the reasons."""
    agree, lines = [], []
    device = "cuda" if comparison.results["device"].dropna().str.startswith("cuda").any() else "cpu"
    for quantity in (_PEAK, *_COUNTED):
        pairs = {method: found for method in methods if (found := _pairs(comparison, method, quantity))}
        differing = {method: apart for method, found in pairs.items() if (apart := _apart(found)) != _SAME}
        if pairs and not differing:
            agree.append(quantity.name)
        elif differing:
            above_all = {method: _part_apart(comparison, method) if quantity is _PEAK else "" for method in differing}
            whom = listing([f"{escape(method)} ({apart}{above_all[method]})" for method, apart in differing.items()])
            lines.append(f"- {quantity.name}: {whom}; {quantity.why[device]}.")
    same = f"Plan and measurement are equal to the last digit for every method in {listing(agree)}." if agree else ""
    apart = "\n".join(["Plan and measurement differ in:\n", *lines]) if lines else ""
    return "\n\n".join(part for part in (same, apart) if part)


def _part_apart(comparison: Comparison, method: str) -> str:
    """Part of the account in which plan and measurement differ most."""
    records = ended_ok(comparison, method)
    apart = {part: sum(_difference(record, part) for record in records) for part in MEMORY_PARTS}
    largest = max(apart, key=lambda part: abs(apart[part]))
    return f", most in {largest}" if apart[largest] else ""


def _difference(record: Record, part: str) -> float:
    before, after = figure(record.plan, part), figure(record.memory, part)
    return 0 if before is None or after is None else after - before
