"""Section on computing: FLOPs of a step and their rate, share of the peak of the card, and time by phase."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from bench.records.columns import PHASES
from bench.scoring.roofline import Card, card_of
from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import Read, ended_ok, figure, mean, per_seed, share, spread
from reports.load.run_folders import Record
from reports.sections import compiled
from reports.text import amount, count, escape, listing, number, table


def section(comparison: Comparison) -> str:
    """Tables of the FLOPs and their rate and of the time of a step by phase; sentences for what records lack."""
    methods = [method for method in comparison.methods if comparison.seeds(method)]
    counted = [method for method in methods if any(record.compute for record in ended_ok(comparison, method))]
    timed = [method for method in methods if per_seed(comparison, method, _step("median"))]
    parts = [_rates(comparison, counted)] if counted else []
    silent = [method for method in methods if method not in counted]
    if silent:
        parts.append(f"The records of {listing([escape(method) for method in silent])} have no FLOPs of a median step.")
    parts += [_times(comparison, timed)] if timed else []
    parts = [
        part for part in (compiled.of_eager_steps(comparison), *parts, compiled.section(comparison, methods)) if part
    ]
    return "\n\n".join(parts) or "No cell ended ok."


def peak_of(record: Record) -> tuple[float | None, Card | None, str]:
    """Peak FLOP/s of the card in the precision of the cell, the card, and the reason if the peak is unknown."""
    if not str(record.row.get("device")).startswith("cuda"):
        return None, None, "the peak of a CPU is not known"
    gpu = record.environment.get("gpu")
    name = str(gpu.get("name") if isinstance(gpu, dict) else gpu)
    if record.nvml.get("mig"):
        return None, None, f"{name} is a slice of a card (MIG)"
    card = card_of(name)
    if card is None:
        return None, None, f"the peak of {name} is not in the table of cards"
    precision = str(record.row.get("precision"))
    if precision == "fp32" and _tf32(record):
        return None, card, "TF32 was allowed, so matrix products did not run at the rate of fp32"
    peak = card.peak(precision)
    return peak, card, "" if peak else f"{name} has no units for {precision}"


def _tf32(record: Record) -> bool:
    flags = record.environment.get("precision_flags")
    known = flags if isinstance(flags, dict) else {}
    return bool(known.get("cuda_matmul_tf32")) or known.get("float32_matmul_precision") in ("high", "medium")


def _rate(record: Record) -> float | None:
    return figure(record.compute, "model_flops_per_second")


def _share_of_peak(record: Record) -> float | None:
    rate, (peak, _, _) = _rate(record), peak_of(record)
    return rate / peak if rate is not None and peak else None


def _rates(comparison: Comparison, methods: Sequence[str]) -> str:
    def cell(method: str, key: str, unit: str) -> str:
        return spread(
            per_seed(comparison, method, lambda record: figure(record.compute, key)), lambda v: amount(v, unit)
        )

    rows = [
        [
            escape(method),
            spread(per_seed(comparison, method, lambda record: figure(record.compute, "items")), count),
            cell(method, "flops_forward", "FLOP"),
            cell(method, "flops_backward", "FLOP"),
            spread(per_seed(comparison, method, lambda record: figure(record.compute, "operators_per_step")), count),
            spread(per_seed(comparison, method, lambda record: figure(record.compute, "step_seconds")), _milliseconds),
            cell(method, "model_flops_per_second", "FLOP/s"),
            spread(per_seed(comparison, method, _share_of_peak), share),
        ]
        for method in methods
    ]
    header = [
        "Method",
        "Distinct items",
        "Forward",
        "Backward",
        "Operators",
        "Median step",
        "Model FLOP/s",
        "Of the peak",
    ]
    return f"{_LEGEND} {_peaks(comparison, methods)}\n\n{table(header, rows)}"


_LEGEND = (
    "FLOPs are those of the matrix products, convolutions and attentions for the batch with the median number of "
    "distinct items; a multiplication and an addition count as two. Operators are those of a whole step that start a "
    "kernel, all but views and allocations: where they are many and have little to compute, a GPU waits for the host. "
    "Model FLOP/s are the FLOPs of both passes divided by the time of the median step, including waiting for data and "
    "the optimizer. A method that computes less may have a lower rate."
)


def _peaks(comparison: Comparison, methods: Sequence[str]) -> str:
    """Sentences that give the peak of the card and its source, or the reason why there is no share of it."""
    sentences: dict[str, list[str]] = {}
    for method in methods:
        for record in ended_ok(comparison, method):
            peak, card, reason = peak_of(record)
            text = (
                f"The peak is {amount(peak, 'FLOP/s')}, dense, in {escape(record.row.get('precision'))} "
                f"({escape(card.source)})."
                if peak and card
                else f"The share of the peak is empty: {escape(reason)}."
            )
            sentences.setdefault(text, []).append(method)
    return " ".join(sentences)


def _step(*keys: str) -> Read:
    return lambda record: figure(record.steps, *keys)


def _gpu_busy(record: Record) -> float | None:
    return figure(record.trace, "gpu_busy_share")


def _times(comparison: Comparison, methods: Sequence[str]) -> str:
    rows = []
    for method in methods:
        quartiles = [mean(per_seed(comparison, method, _step(key))) for key in ("q25", "q75")]
        between = " to ".join(_milliseconds(value) for value in quartiles if value is not None)
        variation = mean(per_seed(comparison, method, _step("cv")))
        phases = [mean(per_seed(comparison, method, _step("phases", phase))) for phase in PHASES]
        rows.append(
            [
                escape(method),
                spread(per_seed(comparison, method, _step("count")), count),
                spread(per_seed(comparison, method, _step("median")), _milliseconds),
                between,
                spread(per_seed(comparison, method, _step("p95")), _milliseconds),
                "" if variation is None else share(variation),
                *("" if value is None else share(value) for value in phases),
            ]
        )
    header = ["Method", "Steps", "Median", "Quartiles", "95th percentile", "Variation"]
    busy = {method: per_seed(comparison, method, _gpu_busy) for method in methods}
    if any(busy.values()):
        header.append("GPU busy")
        for row, method in zip(rows, methods, strict=True):
            row.insert(len(header) - 1, spread(busy[method], share))
    text = (
        "Time of a training step, and the share of each phase in the total time. Variation is the standard deviation "
        "divided by the mean. The share of a phase that no step has is empty."
    )
    if any(busy.values()):
        text += (
            " GPU busy is the share of the time of traced steps in which at least one kernel ran. The trace slows the "
            "host down, so the share is a lower limit; where it is low, the time of a step is that of Python and of "
            "launching kernels."
        )
    return f"{text}\n\n{table([*header, *(phase.capitalize() for phase in PHASES)], rows)}"


def cells(comparison: Comparison) -> str:
    """Table of the seconds of each phase of a cell, with the share of its time that is not training; may be empty.

    Cells that were resumed are left out, since their phases are those of the last process alone.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for method in comparison.methods:
        whole = [record for record in ended_ok(comparison, method) if record.phase_seconds and not record.resumed]
        if whole:
            found[method] = [_seconds_of_cell(record) for record in whole]
    if not found:
        return ""
    names = list(dict.fromkeys(name for cells in found.values() for cell in cells for name in cell))
    shown = [name for name in names if any(cell.get(name, 0.0) >= _SHORT for cells in found.values() for cell in cells)]
    rows = []
    for method, own in found.items():
        totals = [sum(cell.values()) for cell in own]
        overhead = [1 - cell[_STEPS] / total for cell, total in zip(own, totals, strict=True)]
        seconds = [median(cell.get(name, 0.0) for cell in own) for name in shown]
        rows.append([escape(method), *map(number, [*seconds, median(totals)]), share(median(overhead))])
    text = (
        "Median seconds over the seeds. The seconds of the other tables are those of training steps alone. Overhead is "
        "the share of everything else: loading, and building a cache that is not there yet (assemble), checks, probes, "
        "evaluation, and the plan. The start of the process is not included. A phase is left out if it takes less "
        f"than {_SHORT:g} s in every cell."
    )
    header = ["Method", *(name[0].upper() + name[1:] for name in shown), "Whole cell", "Overhead"]
    return f"{text}\n\n{table([escape(title) for title in header], rows)}"


_STEPS, _SHORT = "training steps", 0.05


def _seconds_of_cell(record: Record) -> dict[str, float]:
    """Seconds of each phase in their order; training steps are apart from the validation between them."""
    seconds: dict[str, float] = {}
    for phase in record.phase_seconds:
        own = figure(record.phase_seconds, phase)
        if own is None:
            continue
        if phase != "train":
            seconds[phase] = own
            continue
        steps = figure(record.row, "train_seconds") or 0.0
        seconds |= {_STEPS: steps, "validation": max(own - steps, 0.0)}
    return {_STEPS: 0.0, **seconds}


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms"
