"""Section on the hidden-state cache: its cost, and the number of epochs after which it saves time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import column, ended_ok, figure, per_seed, spread
from reports.text import count, escape, listing, number, size, table


@dataclass(frozen=True)
class BreakEven:
    """Number of epochs after which a cache saves time in total, per seed, or the reason why it is unknown."""

    live: str
    """The same method with live states; empty if the comparison has none."""
    epochs: tuple[float, ...] = ()
    reason: str = ""


def break_even(comparison: Comparison, method: str) -> BreakEven:
    """Seconds to build the cache divided by the seconds that it saves per epoch, for each seed of both methods."""
    live = live_twin(comparison, method)
    if live is None:
        return BreakEven("", reason="the same method with live states is not part of this comparison")
    seconds = {record.row.get("seed"): figure(record.row, "epoch_seconds") for record in ended_ok(comparison, live)}
    epochs, slower = [], []
    for record in ended_ok(comparison, method):
        seed = record.row.get("seed")
        cached, built, uncached = (
            figure(record.row, "epoch_seconds"),
            figure(record.cache, "seconds"),
            seconds.get(seed),
        )
        if cached is None or built is None or uncached is None:
            continue
        if cached < uncached:
            epochs.append(built / (uncached - cached))
        else:
            slower.append(str(seed))
    if slower:
        return BreakEven(live, reason=f"with seed {', '.join(slower)} an epoch from the cache is not faster")
    if not epochs:
        return BreakEven(live, reason="no seed has all the times that it is computed from")
    return BreakEven(live, tuple(epochs))


def live_twin(comparison: Comparison, method: str) -> str | None:
    """Method that has the same class and options as a cached method and computes its states in every step."""
    wanted = [_without_cache(record.method) for record in ended_ok(comparison, method)]
    for other in comparison.methods:
        records = ended_ok(comparison, other)
        live = bool(records) and other != method and not any(record.cache for record in records)
        if live and wanted and _without_cache(records[0].method) == wanted[0]:
            return other
    return None


def _without_cache(method: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and options of a method without the option `cached`; a method and its cached variant agree in them.

    Records of earlier versions do not name the class; the types of their built-in methods differ in an ending alone.
    """
    options = method.get("options")
    target = str(method.get("class") or str(method.get("type")).removesuffix("-cached"))
    known = options.items() if isinstance(options, Mapping) else ()
    return target, {key: value for key, value in known if key != "cached"}


def section(comparison: Comparison) -> str:
    """Table of the methods with a cache; a sentence if there is none or the records do not describe it."""
    methods = [method for method in comparison.methods if any(record.cache for record in ended_ok(comparison, method))]
    if not methods:
        silent = [method for method in comparison.methods if per_seed(comparison, method, column("cache_bytes"))]
        if silent:
            return f"The records of {listing([escape(method) for method in silent])} do not describe their cache."
        return "No method here has a hidden-state cache."
    found = {method: break_even(comparison, method) for method in methods}
    header = ["Method", "Built in", "On disk", "Read per step", "Reused", "Live twin", "Epoch, live", "Epoch, cached",
              "Paid for after", "Trained for"]  # fmt: skip
    parts = [_LEGEND, table(header, [_cells(comparison, method, found[method]) for method in methods])]
    parts += [
        f"The epochs after which the cache of {escape(method)} saves time are unknown: {escape(one.reason)}."
        for method, one in found.items()
        if one.reason
    ]
    return "\n\n".join(parts)


_LEGEND = (
    "“Built in” is the time to encode the whole catalogue once. A reused cache was built by an earlier cell, so this "
    "time is comparable with the others only if both ran on the same machine. “Read per step” is a mean over steps; "
    "the cache is a memory-mapped file. “Live twin” is the same method without a cache. “Paid for after” is the "
    "seconds to build divided by the seconds that an epoch with the cache is faster than one of the live twin, per "
    "seed; further cells that reuse the cache build nothing."
)


def _cells(comparison: Comparison, method: str, found: BreakEven) -> list[str]:
    def of_cache(key: str) -> Sequence[float]:
        return per_seed(comparison, method, lambda record: figure(record.cache, key))

    def epoch(name: str) -> str:
        return spread(per_seed(comparison, name, column("epoch_seconds")), _seconds)

    return [
        escape(method),
        spread(of_cache("seconds"), _seconds),
        spread(of_cache("bytes"), size),
        spread(of_cache("bytes_per_step"), size),
        _reused(comparison, method),
        escape(found.live),
        epoch(found.live),
        epoch(method),
        f"{spread(found.epochs, _epochs)} epochs" if found.epochs else "",
        f"{spread(per_seed(comparison, method, column('epochs')), _epochs)} epochs",
    ]


def _reused(comparison: Comparison, method: str) -> str:
    said = [bool(record.cache.get("reused")) for record in ended_ok(comparison, method) if record.cache]
    if len(set(said)) == 1:
        return "yes" if said[0] else "no"
    return f"{count(sum(said))} of {count(len(said))} cells"


def _seconds(value: float) -> str:
    return f"{number(value)} s"


def _epochs(value: float) -> str:
    return f"{value:.1f}" if value == 0 or value >= 0.05 else "&lt; 0.1"
