"""Three sentences that the numbers say of themselves. Nothing here knows beforehand who wins."""

from __future__ import annotations

from bench import tpme
from bench.errors import UserError
from reports.blocks import BASELINE, Z95, Block, Spread
from reports.tables import comparable
from reports.text import count, escape, listing, ratio

NO_DIFFERENCE = "no difference shown"

_COSTS = {
    "epoch_seconds": "the seconds per epoch",
    "peak_memory_bytes": "the peak memory",
    "trainable_params": "the trainable parameters",
}


def verdict(block: Block) -> list[str]:
    """Sentences for Markdown: who is most accurate, who has the lowest TPME, and what that is against `fft`."""
    if not (block.results["status"] == "ok").any():
        return ["No cell ended ok, so there is nothing to compare."]
    return [_accuracy(block), _trade_off(block), _against_baseline(block)]


def comparable_costs(block: Block) -> dict[str, dict[str, float]]:
    """The costs of the methods that a TPME of this block compares, in the means over seeds.

    Raises:
        UserError: the methods have their memory from more than one source.
    """
    return {str(method): row for method, row in comparable(block.summary).items()}


def trade_off(block: Block) -> dict[str, float]:
    """TPME of the methods of a block, on the means over seeds.

    Raises:
        UserError: it cannot be computed; the line says why.
    """
    return tpme.tpme(comparable_costs(block))


def best_by_accuracy(block: Block) -> list[str]:
    """The methods with the highest HR@10, best first."""
    means = {method: block.value(method, "hr@10") or 0.0 for method in block.measured("hr@10")}
    return sorted(means, key=lambda method: -means[method])


def _accuracy(block: Block) -> str:
    if block.random_weights:
        return (
            "The backbones were initialised at random, so HR@10 says nothing about the methods: no best one is named."
        )
    ranked = best_by_accuracy(block)
    if not ranked:
        return "No HR@10 was measured."
    spreads = {method: spread for method in ranked if (spread := block.spread(method, "hr@10"))}
    best = spreads[ranked[0]]
    ties = [method for method in ranked if spreads[method].mean == best.mean]
    rest = [method for method in ranked if method not in ties]
    verb = "has" if len(ties) == 1 else "share"
    text = f"{_names(ties)} {verb} the highest HR@10, {_with_interval(best)}"
    if not rest:
        return f"{text}, with no other method beside {'it' if len(ties) == 1 else 'them'}."
    second = spreads[rest[0]]
    text += f", {_gap(best.mean - second.mean)} ahead of {_name(rest[0])} at {_with_interval(second)}"
    verdicts = {method: best.overlaps(spreads[method]) for method in rest}
    level = [method for method in rest if verdicts[method]]
    if any(overlap is None for overlap in verdicts.values()):
        return f"{text}; the spread of some is unknown, so whether that is a difference cannot be said."
    if not level:
        return f"{text}; its interval is apart from that of every other method."
    if level == rest and len(rest) > 2:
        return f"{text}; the intervals of all others overlap with that: {NO_DIFFERENCE}."
    return f"{text}; the intervals overlap with {_names(level)}: {NO_DIFFERENCE} from {_them(level)}."


def _trade_off(block: Block) -> str:
    try:
        scores = trade_off(block)
    except UserError as error:
        return f"TPME cannot be computed: {escape(error)}."
    order = tpme.order_of(scores)
    first, second = order[0], order[1]
    text = f"{_name(first)} has the lowest TPME, {scores[first]:.3f}, before {_name(second)} at {scores[second]:.3f}"
    kept = tpme.weight_sensitivity(comparable_costs(block)).first[first]
    return f"{text}, and is first in {kept:.0%} of a grid over all weightings of time, parameters and memory."


def _against_baseline(block: Block) -> str:
    if not block.seeds(BASELINE):
        why = "did not end ok" if BASELINE in block.methods else "is not part of this comparison"
        return f"{_name(BASELINE)} {why}, so costs and gains cannot be set against it."
    others = _worth_setting(block)
    if not others:
        return f"No other method than {_name(BASELINE)} ended ok, so there is nothing to set against it."
    return f"Against {_name(BASELINE)}, {'; '.join(_bargain(block, method) for method in others)}."


def _worth_setting(block: Block) -> list[str]:
    """The method of lowest TPME and the most accurate one, `fft` itself apart."""
    chosen = []
    try:
        chosen.append(tpme.order_of(trade_off(block))[0])
    except UserError:
        chosen += [method for method in block.measured("epoch_seconds") if method != BASELINE][:1]
    if not block.random_weights:
        chosen += best_by_accuracy(block)[:1]
    named = [method for method in dict.fromkeys(chosen) if method != BASELINE]
    if named or block.random_weights:
        return named
    return [method for method in best_by_accuracy(block) if method != BASELINE][:1]


def _bargain(block: Block, method: str) -> str:
    costs = []
    for column, words in _COSTS.items():
        own, base = block.value(method, column), block.value(BASELINE, column)
        if own is not None and base:
            costs.append(f"{ratio(own, base)} {words}")
    text = f"{_name(method)} takes {listing(costs)}" if costs else f"the costs of {_name(method)} are unknown"
    mine, theirs = block.spread(method, "hr@10"), block.spread(BASELINE, "hr@10")
    if block.random_weights or mine is None or theirs is None:
        return text
    return f"{text}, and its HR@10 is {_difference(mine, theirs)}"


def _difference(mine: Spread, theirs: Spread) -> str:
    gap = mine.mean - theirs.mean
    text = f"{_gap(gap)} {'higher' if gap >= 0 else 'lower'}" if gap else "the same"
    if theirs.mean > 0:
        text += f" ({ratio(mine.mean, theirs.mean)})"
    overlap = mine.overlaps(theirs)
    if overlap is None:
        return f"{text}, with a spread that is unknown"
    return f"{text}, {NO_DIFFERENCE}" if overlap else f"{text}, with intervals apart"


def _gap(gap: float) -> str:
    return f"{abs(gap):.3f}" if abs(gap) >= 0.0005 else "less than 0.001"


def _with_interval(spread: Spread) -> str:
    if spread.low is None or spread.high is None:
        return f"{spread.mean:.3f}"
    interval = f"{spread.mean:.3f} ({max(spread.low, 0.0):.3f} to {min(spread.high, 1.0):.3f}"
    if spread.source == "seeds":
        return f"{interval} over {spread.count} seeds)"
    return f"{interval}, a standard error of {(spread.high - spread.mean) / Z95:.3f} over {count(spread.count)} users)"


def _name(method: str) -> str:
    return f"**{escape(method)}**"


def _names(methods: list[str]) -> str:
    return listing([_name(method) for method in methods])


def _them(methods: list[str]) -> str:
    return "it" if len(methods) == 1 else "them"
