"""Section on computing: FLOPs of a step and their rate, share of the peak of the card, and time by phase."""

from __future__ import annotations

from collections.abc import Sequence

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
            spread(per_seed(comparison, method, lambda record: figure(record.compute, "step_seconds")), _milliseconds),
            cell(method, "model_flops_per_second", "FLOP/s"),
            spread(per_seed(comparison, method, _share_of_peak), share),
        ]
        for method in methods
    ]
    header = ["Method", "Distinct items", "Forward", "Backward", "Median step", "Model FLOP/s", "Of the peak"]
    return f"{_LEGEND} {_peaks(comparison, methods)}\n\n{table(header, rows)}"


_LEGEND = (
    "FLOPs are those of the matrix products, convolutions and attentions for the batch with the median number of "
    "distinct items; a multiplication and an addition count as two. Model FLOP/s are the FLOPs of both passes divided "
    "by the time of the median step, including waiting for data and the optimizer. A method that computes less may "
    "have a lower rate."
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
    text = (
        "Time of a training step, and the share of each phase in the total time. Variation is the standard deviation "
        "divided by the mean. The share of a phase that no step has is empty."
    )
    return f"{text}\n\n{table([*header, *(phase.capitalize() for phase in PHASES)], rows)}"


def _milliseconds(seconds: float) -> str:
    return f"{number(1000 * seconds)} ms"
