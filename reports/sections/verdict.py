"""A few sentences that the numbers say of themselves. Nothing here knows beforehand who wins."""

from __future__ import annotations

from bench.scoring import tpme
from bench.utils.errors import UserError
from reports.analysis.comparison import BASELINE, Z95, Comparison, Spread
from reports.analysis.paired import Difference
from reports.analysis.tradeoff import first_shares, score_spread, trade_off
from reports.sections.accuracy import NO_DIFFERENCE, p_value
from reports.text import count, escape, listing, ratio

_COSTS = {
    "epoch_seconds": "the seconds per epoch",
    "peak_memory_bytes": "the peak memory",
    "trainable_params": "the trainable parameters",
}


def verdict(comparison: Comparison) -> list[str]:
    """Sentences for Markdown: who is most accurate, who has the lowest TPME, what that is against `fft`, who failed."""
    if not (comparison.results["status"] == "ok").any():
        return ["No cell ended ok, so there is nothing to compare."]
    sentences = [_accuracy(comparison), _trade_off(comparison), _against_baseline(comparison)]
    failed = _failed(comparison)
    return [*sentences, f"Not compared, since no cell of theirs ended ok: {listing(failed)}."] if failed else sentences


def best_by_accuracy(comparison: Comparison) -> list[str]:
    """The methods with the highest HR@10, best first."""
    means = {method: comparison.value(method, "hr@10") or 0.0 for method in comparison.measured("hr@10")}
    return sorted(means, key=lambda method: -means[method])


def _accuracy(comparison: Comparison) -> str:
    if comparison.random_weights:
        return (
            "The backbones were initialised at random, so HR@10 says nothing about the methods: no best one is named."
        )
    ranked = best_by_accuracy(comparison)
    if not ranked:
        return "No HR@10 was measured."
    spreads = {method: spread for method in ranked if (spread := comparison.spread(method, "hr@10"))}
    best = spreads[ranked[0]]
    ties = [method for method in ranked if spreads[method].mean == best.mean]
    verb = "has" if len(ties) == 1 else "share"
    text = f"{_names(ties)} {verb} the highest HR@10, {_with_interval(best)}"
    return f"{text}{_against_others(comparison, spreads, ties)}{_against_popularity(comparison, best)}"


def _against_others(comparison: Comparison, spreads: dict[str, Spread], ties: list[str]) -> str:
    """How far the methods that share the first place are ahead of the others, and whether that is a difference."""
    ranked, best = list(spreads), spreads[ties[0]]
    rest = [method for method in ranked if method not in ties]
    if not rest:
        alone = f", with no other method beside {_them(ties)}"
        return f"{alone}, since the others did not end ok." if _failed(comparison) else f"{alone}."
    second = spreads[rest[0]]
    text = f", {_gap(best.mean - second.mean)} ahead of {_name(rest[0])} at {_with_interval(second)}"
    tests = [found for method in rest if (found := comparison.tested(ranked[0], method))]
    if len(tests) == len(rest):
        return f"{text}; {_told_apart(tests)}{_seeds_may_turn(tests, spreads)}"
    verdicts = {method: best.overlaps(spreads[method]) for method in rest}
    level = [method for method in rest if verdicts[method]]
    if any(overlap is None for overlap in verdicts.values()):
        return f"{text}; the spread of some is unknown, so whether that is a difference cannot be said."
    if not level:
        return f"{text}; its interval is apart from that of every other method."
    if level == rest and len(rest) > 2:
        return f"{text}; the intervals of all others overlap with that: {NO_DIFFERENCE}."
    return f"{text}; the intervals overlap with {_names(level)}: {NO_DIFFERENCE} from {_them(level)}."


def _failed(comparison: Comparison) -> list[str]:
    """The methods of which no cell ended ok, and how they ended."""
    failed = []
    for method in (method for method in comparison.methods if not comparison.seeds(method)):
        ended = comparison.results.loc[comparison.results["method"] == method, "status"].unique()
        failed.append(f"{_name(method)} ({', '.join(escape(status) for status in ended)})")
    return failed


def _against_popularity(comparison: Comparison, best: Spread) -> str:
    """What the highest accuracy is worth where recommending whatever is popular does as well."""
    floor = comparison.reference("popularity", "hr@10")
    if floor is None:
        return ""
    if best.mean <= floor:
        return f" That is not above ranking by popularity ({floor:.3f}), and so no method here is."
    if best.low is not None and best.low <= floor:
        return f" Its interval holds what ranking by popularity gives ({floor:.3f})."
    return ""


def _told_apart(tests: list[Difference]) -> str:
    """What the paired tests of the best method against each of the others say."""
    level = [found.second for found in tests if not found.shown]
    if not level:
        worst = max(found.p_holm for found in tests)
        bound = p_value(worst) if worst < 0.001 else f"at most {p_value(worst)}"
        return f"a paired test over users tells it apart from every other method (Holm-corrected p {bound})."
    if len(level) == len(tests) > 2:
        return f"a paired test over users tells it apart from none of the others: {NO_DIFFERENCE}."
    return f"a paired test over users does not tell it apart from {_names(level)}: {NO_DIFFERENCE} from {_them(level)}."


def _seeds_may_turn(tests: list[Difference], spreads: dict[str, Spread]) -> str:
    """What differs over users may still be a matter of the seed."""
    best = spreads[tests[0].first]
    shown = [found.second for found in tests if found.shown]
    unsure = [name for name in shown if spreads[name].source == "seeds" and best.overlaps(spreads[name])]
    if not unsure:
        return ""
    return f" The intervals over seeds overlap with {_names(unsure)}, so other seeds may turn that."


def _trade_off(comparison: Comparison) -> str:
    try:
        scores = trade_off(comparison)
    except UserError as error:
        return f"TPME cannot be computed: {escape(error)}."
    order = tpme.order_of(scores)
    first, second = order[0], order[1]
    text = (
        f"{_name(first)} has the lowest TPME, {scores[first]:.3f}, before {_name(second)} at {scores[second]:.3f}, "
        f"and is first in {first_shares(comparison)[first]:.0%} of all weightings of time, parameters and memory"
    )
    spread = score_spread(comparison)
    if spread is None:
        return f"{text}.{_cheap_and_useless(comparison, first)}"
    level = spread.level_with(first)
    drawn = "steps and seeds" if spread.seeds > 1 else "steps"
    text += f"; with other {drawn} it is first in {spread.first[first]:.0%} of the draws"
    same = f", {NO_DIFFERENCE} from {_names(level)}" if level else ""
    return f"{text}{same}.{_cheap_and_useless(comparison, first)}"


def _cheap_and_useless(comparison: Comparison, method: str) -> str:
    """What the lowest TPME is worth with an accuracy that popularity has for nothing."""
    floor, accuracy = comparison.reference("popularity", "hr@10"), comparison.value(method, "hr@10")
    if floor is None or accuracy is None or accuracy > floor or comparison.random_weights:
        return ""
    return (
        f" TPME does not look at accuracy: the HR@10 of {_name(method)}, {accuracy:.3f}, is not above that of ranking "
        f"by popularity ({floor:.3f})."
    )


def _against_baseline(comparison: Comparison) -> str:
    if not comparison.seeds(BASELINE):
        why = "did not end ok" if BASELINE in comparison.methods else "is not part of this comparison"
        return f"{_name(BASELINE)} {why}, so costs and gains cannot be set against it."
    others = _worth_setting(comparison)
    if not others:
        return f"No other method than {_name(BASELINE)} ended ok, so there is nothing to set against it."
    return f"Against {_name(BASELINE)}, {'; '.join(_bargain(comparison, method) for method in others)}."


def _worth_setting(comparison: Comparison) -> list[str]:
    """The method of lowest TPME and the most accurate one, `fft` itself apart."""
    chosen = []
    try:
        chosen.append(tpme.order_of(trade_off(comparison))[0])
    except UserError:
        chosen += [method for method in comparison.measured("epoch_seconds") if method != BASELINE][:1]
    if not comparison.random_weights:
        chosen += best_by_accuracy(comparison)[:1]
    named = [method for method in dict.fromkeys(chosen) if method != BASELINE]
    if named or comparison.random_weights:
        return named
    return [method for method in best_by_accuracy(comparison) if method != BASELINE][:1]


def _bargain(comparison: Comparison, method: str) -> str:
    costs = []
    for column, words in _COSTS.items():
        own, base = comparison.value(method, column), comparison.value(BASELINE, column)
        if own is not None and base:
            costs.append(f"{ratio(own, base)} {words}")
    text = f"{_name(method)} takes {listing(costs)}" if costs else f"the costs of {_name(method)} are unknown"
    mine, theirs = comparison.spread(method, "hr@10"), comparison.spread(BASELINE, "hr@10")
    if comparison.random_weights or mine is None or theirs is None:
        return text
    return f"{text}, and its HR@10 is {_difference(mine, theirs, comparison.tested(method, BASELINE))}"


def _difference(mine: Spread, theirs: Spread, tested: Difference | None) -> str:
    gap = mine.mean - theirs.mean
    text = f"{_gap(gap)} {'higher' if gap >= 0 else 'lower'}" if gap else "the same"
    if theirs.mean > 0:
        text += f" ({ratio(mine.mean, theirs.mean)})"
    if tested is not None:
        return f"{text}, {f'Holm-corrected p {p_value(tested.p_holm)}' if tested.shown else NO_DIFFERENCE}"
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
    if spread.source == "bootstrap":
        return f"{interval} over {count(spread.count)} users)"
    return f"{interval}, a standard error of {(spread.high - spread.mean) / Z95:.3f} over {count(spread.count)} users)"


def _name(method: str) -> str:
    return f"**{escape(method)}**"


def _names(methods: list[str]) -> str:
    return listing([_name(method) for method in methods])


def _them(methods: list[str]) -> str:
    return "it" if len(methods) == 1 else "them"
