"""Choice of a method: the cheapest one that is accurate enough, the methods that never pay, and costs in money."""

from __future__ import annotations

from dataclasses import dataclass

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import ScoreSpread, comparable_costs, trade_off


@dataclass(frozen=True)
class Choice:
    """The most accurate method, and the cheapest one whose accuracy is close enough to it."""

    best: str
    """Method with the highest HR@10; of several, the cheapest."""
    chosen: str
    """Cheapest method whose HR@10 is within the limit of the options; may be `best`."""
    cheaper: tuple[str, ...]
    """Methods that are cheaper than the chosen one and less accurate than the limit."""
    by: str
    """Column that decides which method is cheaper: `tpme`, or `epoch_seconds` where no TPME can be computed."""


def choose(comparison: Comparison) -> Choice | None:
    """Choice by the means over seeds; None without two methods that have an HR@10 with a meaning and a cost."""
    if comparison.random_weights:
        return None
    by, costs = _cost(comparison)
    accuracy = {method: value for method in costs if (value := comparison.value(method, "hr@10")) is not None}
    if len(accuracy) < 2:
        return None
    highest = max(accuracy.values())
    enough = [method for method, value in accuracy.items() if value >= (1 - comparison.options.within) * highest]
    best = min((method for method in enough if accuracy[method] == highest), key=costs.__getitem__)
    chosen = min(enough, key=costs.__getitem__)
    return Choice(best, chosen, tuple(method for method in accuracy if costs[method] < costs[chosen]), by)


def _cost(comparison: Comparison) -> tuple[str, dict[str, float]]:
    """The column of cost that decides, and its values by method."""
    try:
        return "tpme", trade_off(comparison)
    except UserError:
        column = "epoch_seconds"
        return column, {name: comparison.value(name, column) or 0.0 for name in comparison.measured(column)}


def dominated(comparison: Comparison, spread: ScoreSpread | None) -> dict[str, str]:
    """Methods that another one beats in accuracy and in every cost at once, with the method that does.

    A method is beaten if the other one's mean HR@10 is not lower, none of its time, parameters and memory is higher,
    and one of the four is better. No weighting of the costs can then make it worth its price. Of several that beat a
    method, the most accurate one is given, then the fastest. Of two methods whose TPME the bootstrap does not tell
    apart, neither beats the other: their seconds differ by chance.

    Args:
        comparison: The methods.
        spread: Bootstrap of the TPME; None if there is none.
    """
    if comparison.random_weights:
        return {}
    try:
        costs = comparable_costs(comparison)
    except UserError:
        return {}
    places = {
        method: (-accuracy, row["time"], row["params"], row["memory"])
        for method, row in costs.items()
        if (accuracy := comparison.value(method, "hr@10")) is not None
    }
    found = {}
    for method, own in places.items():
        better = [
            other
            for other, its in places.items()
            if its != own
            and all(mine >= theirs for mine, theirs in zip(own, its, strict=True))
            and (spread is None or frozenset((method, other)) not in spread.level)
        ]
        if better:
            found[method] = min(better, key=places.__getitem__)
    return found


def run_seconds(comparison: Comparison, method: str) -> float | None:
    """Seconds of the whole training, and of building the cache if the method reads one; None if either is unknown."""
    training, cache = comparison.value(method, "train_seconds"), comparison.value(method, "cache_seconds")
    if training is None or (cache is None and comparison.value(method, "cache_bytes") is not None):
        return None
    return training + (cache or 0.0)


def price(comparison: Comparison, seconds: float | None) -> float | None:
    """Money for some seconds of the device; None without a price per hour, or if the seconds are unknown."""
    per_hour = comparison.options.price_per_hour
    return None if per_hour is None or seconds is None else per_hour * seconds / 3600
