"""What the hidden-state cache costs, and after how many epochs it has paid for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import column, ended_ok, figure, per_seed, spread
from reports.text import count, escape, listing, number, size, table


@dataclass(frozen=True)
class BreakEven:
    """After how many epochs a cache has paid for itself, per seed; without any the reason."""

    live: str
    """The same method with live states; empty where there is none."""
    epochs: tuple[float, ...] = ()
    reason: str = ""


def break_even(comparison: Comparison, method: str) -> BreakEven:
    """Seconds to build over the seconds that an epoch takes less, for each seed of both methods."""
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
        return BreakEven(live, reason="no seed has all of the seconds that it takes")
    return BreakEven(live, tuple(epochs))


def live_twin(comparison: Comparison, method: str) -> str | None:
    """The method that differs from a cached one in nothing but that its states are computed in every step."""
    wanted = [_without_cache(record.method) for record in ended_ok(comparison, method)]
    for other in comparison.methods:
        records = ended_ok(comparison, other)
        live = bool(records) and other != method and not any(record.cache for record in records)
        if live and wanted and _without_cache(records[0].method) == wanted[0]:
            return other
    return None


def _without_cache(method: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Class and options of a method, the cache aside; cells without and with a cache agree in it.

    Records of earlier versions do not name the class; their built-in methods differ in the name's ending alone.
    """
    options = method.get("options")
    target = str(method.get("class") or str(method.get("type")).removesuffix("-cached"))
    known = options.items() if isinstance(options, Mapping) else ()
    return target, {key: value for key, value in known if key != "cached"}


def section(comparison: Comparison) -> str:
    """A table of the methods with a cache; a sentence where there is none, or older records do not say."""
    methods = [method for method in comparison.methods if any(record.cache for record in ended_ok(comparison, method))]
    if not methods:
        silent = [method for method in comparison.methods if per_seed(comparison, method, column("cache_bytes"))]
        if silent:
            return f"The records of {listing([escape(method) for method in silent])} do not say what their cache took."
        return "No method here has a hidden-state cache."
    found = {method: break_even(comparison, method) for method in methods}
    header = ["Method", "Built in", "On disk", "Read per step", "Reused", "Live twin", "Epoch, live", "Epoch, cached",
              "Paid for after", "Trained for"]  # fmt: skip
    parts = [_LEGEND, table(header, [_cells(comparison, method, found[method]) for method in methods])]
    parts += [
        f"{escape(method)} has no such number: {escape(one.reason)}." for method, one in found.items() if one.reason
    ]
    return "\n\n".join(parts)


_LEGEND = (
    "Built in is the time that encoding the whole catalogue once took, whenever that was: a cache that was reused was "
    "built by an earlier cell, and seconds of then and of now are only comparable on one machine. Read per step is the "
    "mean, from a mapped file. The cache has paid for itself after seconds to build / (seconds of an epoch with live "
    "states − with cached ones) epochs, seed by seed; further cells that reuse it pay nothing."
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
