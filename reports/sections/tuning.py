"""Section on tuning: cost and result of the search for the options of each method."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from reports.analysis.comparison import Comparison
from reports.analysis.tuning_costs import costs
from reports.text import amount, count, escape, listing, number, table

_HEADER = ["Method", "Trials", "Failed", "Time", "Energy", "Validation HR@10", "Chosen on", "Options"]


def section(comparison: Comparison) -> str:
    """Table with a row per tuned method, of which there must be at least one."""
    found = costs(comparison)
    digests = {record.dataset_digest for record in comparison.records} - {""}
    rows = [
        [
            escape(method),
            count(one.trials),
            count(one.failed),
            _sum(one.seconds, one.timed, one.trials, lambda value: f"{number(value)} s"),
            _sum(one.joules, one.metered, one.trials, lambda value: amount(value, "J")),
            f"{max(value for _, value in one.curve):.3f}" if one.curve else "",
            _where(one.data, digests),
            _options(one.options),
        ]
        for method, one in found.items()
    ]
    parts = [_LEGEND]
    if len({one.trials for one in found.values()}) > 1:
        parts.append("The methods had different numbers of trials; a method with more trials had an advantage.")
    others = [escape(method) for method in comparison.methods if method not in found]
    if others:
        parts.append(f"No search for the options of {listing(others)} is recorded.")
    return f"{' '.join(parts)}\n\n{table(_HEADER, rows)}"


_LEGEND = (
    "Options were chosen by validation HR@10 alone. Time is the time of whole trials, with set-up and evaluation; "
    "energy is the energy of their training, if the driver reports it. The cost of failed trials is included; ≥ means "
    "that the cost of some trials is unknown."
)


def _sum(value: float | None, known: int, trials: int, words: Callable[[float], str]) -> str:
    if value is None:
        return ""
    return words(value) if known >= trials else f"≥ {words(value)}"


def _where(data: str | None, digests: Collection[str]) -> str:
    if not data or not digests:
        return ""
    return "this data" if data in digests else "other data"


def _options(options: Mapping[str, Any]) -> str:
    shown = (
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in options.items()
    )
    return escape(", ".join(shown), limit=200)
