"""Verdict: sentences derived from the numbers alone; no method is preferred by name."""

from __future__ import annotations

from bench.scoring import tpme
from bench.utils.errors import UserError
from reports.analysis.choice import Choice, choose, dominated, price, run_seconds
from reports.analysis.comparison import BASELINE, Z95, Comparison, Spread
from reports.analysis.paired import Difference
from reports.analysis.per_seed import share
from reports.analysis.tradeoff import ScoreSpread, first_shares, score_spread, trade_off
from reports.sections.accuracy import NO_DIFFERENCE, p_value
from reports.text import count, escape, listing, number, ratio

_COSTS = {
    "epoch_seconds": "the seconds per epoch",
    "peak_memory_bytes": "the peak memory",
    "trainable_params": "the trainable parameters",
}


def verdict(comparison: Comparison) -> list[str]:
    """Points in Markdown, each a sentence or some: the most accurate method, the one to take, the ones never to take,
    the lowest TPME, both against `fft`, and the failed methods."""
    if not (comparison.results["status"] == "ok").any():
        return ["No cell ended ok, so there is nothing to compare."]
    spread = _score_spread(comparison)
    sentences = [
        _accuracy(comparison),
        _recommended(comparison),
        _never_pays(comparison, spread),
        _trade_off(comparison, spread),
        _against_baseline(comparison),
    ]
    if failed := _failed(comparison):
        sentences.append(f"Not compared, because none of their cells ended ok: {listing(failed)}.")
    return [sentence for sentence in sentences if sentence]


def best_by_accuracy(comparison: Comparison) -> list[str]:
    """Methods ordered by HR@10, the best first."""
    means = {method: comparison.value(method, "hr@10") or 0.0 for method in comparison.measured("hr@10")}
    return sorted(means, key=lambda method: -means[method])


def _accuracy(comparison: Comparison) -> str:
    if comparison.random_weights:
        return "The backbones were initialised at random: HR@10 says nothing about the methods, so none is named best."
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
    """Lead of the methods in first place over the others, and whether a difference is shown."""
    ranked, best = list(spreads), spreads[ties[0]]
    rest = [method for method in ranked if method not in ties]
    if not rest:
        alone = f", with no other method beside {_them(ties)}"
        return f"{alone}, because the others did not end ok." if _failed(comparison) else f"{alone}."
    second = spreads[rest[0]]
    text = f", {_gap(best.mean - second.mean)} ahead of {_name(rest[0])} at {_with_interval(second)}"
    tests = [found for method in rest if (found := comparison.tested(ranked[0], method))]
    if len(tests) == len(rest):
        return f"{text}; {_told_apart(tests)}{_seeds_may_turn(tests, spreads)}"
    verdicts = {method: best.overlaps(spreads[method]) for method in rest}
    level = [method for method in rest if verdicts[method]]
    if any(overlap is None for overlap in verdicts.values()):
        return f"{text}; some intervals are unknown, so it is open whether this is a difference."
    if not level:
        return f"{text}; its interval does not overlap with that of any other method."
    if level == rest and len(rest) > 2:
        return f"{text}; the intervals of all others overlap with its interval: {NO_DIFFERENCE}."
    return f"{text}; the intervals overlap with {_names(level)}: {NO_DIFFERENCE} from {_them(level)}."


def _failed(comparison: Comparison) -> list[str]:
    """Names of the methods of which no cell ended ok, with the statuses of their cells."""
    failed = []
    for method in (method for method in comparison.methods if not comparison.seeds(method)):
        ended = comparison.results.loc[comparison.results["method"] == method, "status"].unique()
        failed.append(f"{_name(method)} ({', '.join(escape(status) for status in ended)})")
    return failed


def _against_popularity(comparison: Comparison, best: Spread) -> str:
    """Sentence if the highest accuracy is not clearly above that of ranking by popularity; else empty."""
    floor = comparison.reference("popularity", "hr@10")
    if floor is None:
        return ""
    if best.mean <= floor:
        return f" No method is above ranking by popularity ({floor:.3f})."
    if best.low is not None and best.low <= floor:
        return f" Its interval contains the HR@10 of ranking by popularity ({floor:.3f})."
    return ""


def _told_apart(tests: list[Difference]) -> str:
    """Result of the paired tests of the best method against each of the others."""
    level = [found.second for found in tests if not found.shown]
    if not level:
        worst = max(found.p_holm for found in tests)
        bound = p_value(worst) if worst < 0.001 else f"at most {p_value(worst)}"
        return f"a paired test over users tells it apart from every other method (Holm-corrected p {bound})."
    if len(level) == len(tests) > 2:
        return f"a paired test over users tells it apart from none of the others: {NO_DIFFERENCE}."
    return f"a paired test over users does not tell it apart from {_names(level)}: {NO_DIFFERENCE} from {_them(level)}."


def _seeds_may_turn(tests: list[Difference], spreads: dict[str, Spread]) -> str:
    """Sentence if intervals over seeds overlap although the paired test over users shows a difference; else empty."""
    best = spreads[tests[0].first]
    shown = [found.second for found in tests if found.shown]
    unsure = [name for name in shown if spreads[name].source == "seeds" and best.overlaps(spreads[name])]
    if not unsure:
        return ""
    return f" The intervals over seeds overlap with {_names(unsure)}, so other seeds may give another order."


def _recommended(comparison: Comparison) -> str:
    """The cheapest method that is accurate enough, with its savings; empty if there is nothing to choose from."""
    choice, floor = choose(comparison), comparison.reference("popularity", "hr@10")
    best = None if choice is None else comparison.value(choice.best, "hr@10")
    if choice is None or best is None or (floor is not None and best <= floor):
        return ""
    limit = f"{100 * comparison.options.within:g}%"
    text = f"If an HR@10 within {limit} of the highest is enough, take {_name(choice.chosen)}"
    if choice.chosen == choice.best:
        cheaper = "a lower TPME" if choice.by == "tpme" else "fewer seconds per epoch"
        text += f": no method with {cheaper} reaches that{_may_reach(comparison, choice)}."
    else:
        text += (
            f": its HR@10 is {_shortfall(comparison, choice, best)}. Compared with {_name(choice.best)}, it takes "
            f"{_savings(comparison, choice)}."
        )
    return f"{text}{_money(comparison, choice)}"


def _may_reach(comparison: Comparison, choice: Choice) -> str:
    """Cheaper methods that miss the limit by their means, but from which no difference is shown; may be empty."""
    level = [
        method
        for method in choice.cheaper
        if (tested := comparison.tested(method, choice.best)) is not None and not tested.shown
    ]
    return f" in the mean, though there is {NO_DIFFERENCE} from {_names(level)}" if level else ""


def _shortfall(comparison: Comparison, choice: Choice, best: float) -> str:
    """Distance of the chosen method from the most accurate one, and whether a difference is shown."""
    gap = best - (comparison.value(choice.chosen, "hr@10") or 0.0)
    if not gap:
        return f"the same as that of {_name(choice.best)}"
    text = f"{_gap(gap)} ({share(gap / best)}) below that of {_name(choice.best)}"
    tested = comparison.tested(choice.chosen, choice.best)
    if tested is None:
        return f"{text} ({_UNTESTED})"
    shown = f"Holm-corrected p {p_value(tested.p_holm)}" if tested.shown else NO_DIFFERENCE
    far = -tested.low / best
    reach = f"; the 95 % interval over users reaches to {share(far)}" if far > comparison.options.within else ""
    return f"{text} ({shown}{reach})"


def _savings(comparison: Comparison, choice: Choice) -> str:
    """Seconds and memory of the chosen method as shares of those of the most accurate one."""
    both = (choice.chosen, choice.best)
    costs = {
        _COSTS[column]: [comparison.value(method, column) for method in both]
        for column in ("epoch_seconds", "peak_memory_bytes")
    }
    if any(comparison.value(method, "cache_bytes") is not None for method in both):
        costs["the seconds of training and building the cache"] = [run_seconds(comparison, method) for method in both]
    return listing([_change(own, base, words) for words, (own, base) in costs.items() if own is not None and base])


def _change(own: float, base: float, words: str) -> str:
    return f"{ratio(own, base)} {words} ({share(abs(1 - own / base))} {'less' if own <= base else 'more'})"


def _money(comparison: Comparison, choice: Choice) -> str:
    """Price of an epoch and of the whole training; empty without a price, or if the seconds are unknown."""
    methods = list(dict.fromkeys([choice.chosen, choice.best]))
    epochs = [price(comparison, comparison.value(method, "epoch_seconds")) for method in methods]
    runs = [price(comparison, run_seconds(comparison, method)) for method in methods]
    parts = [
        f"{what} costs {' instead of '.join(_amount(value) for value in values if value is not None)}"
        for what, values in (("an epoch", epochs), ("the whole training, with the cache if there is one,", runs))
        if None not in values
    ]
    if not parts:
        return ""
    machines = dict.fromkeys(record.machine for record in comparison.records if record.machine)
    where = ", ".join([*dict.fromkeys(comparison.results["device"].dropna()), *machines])
    return f" At {comparison.options.price_per_hour:g} per hour of this device ({escape(where)}), {listing(parts)}."


def _amount(value: float) -> str:
    return number(value) if value >= 0.001 else "less than 0.001"


def _never_pays(comparison: Comparison, spread: ScoreSpread | None) -> str:
    """Methods that another one beats in accuracy and every cost at once; empty with fewer than two methods."""
    beaten = dominated(comparison, spread)
    if not beaten:
        return _ALL_PAY if choose(comparison) else ""
    groups: dict[str, list[str]] = {}
    for method, by in beaten.items():
        groups.setdefault(by, []).append(method)
    return " ".join(_beaten(comparison, methods, by) for by, methods in groups.items())


_ALL_PAY = "No method is shown to be beaten by another one in HR@10, time, memory and trainable parameters at once."
_UNTESTED = "no paired test"
_TOLD = {
    True: "higher than that of {}",
    False: f"not lower than that of {{}} ({NO_DIFFERENCE})",
    None: f"not lower than that of {{}} ({_UNTESTED})",
}
"""Accuracy of a method that beats others, by the result of the paired test; None if it was not made."""


def _beaten(comparison: Comparison, methods: list[str], by: str) -> str:
    tests = {method: comparison.tested(by, method) for method in methods}
    told = {method: None if tested is None else tested.shown for method, tested in tests.items()}
    parts = [
        words.format(_names(found))
        for result, words in _TOLD.items()
        if (found := [method for method in methods if told[method] is result])
    ]
    verb = "never pays" if len(methods) == 1 else "never pay"
    return (
        f"{_names(methods)} {verb} here: {_name(by)} takes no more time, memory and trainable parameters, and its "
        f"HR@10 is {listing(parts)}."
    )


def _score_spread(comparison: Comparison) -> ScoreSpread | None:
    try:
        return score_spread(comparison)
    except UserError:
        return None


def _trade_off(comparison: Comparison, spread: ScoreSpread | None) -> str:
    try:
        scores = trade_off(comparison)
    except UserError as error:
        return f"TPME cannot be computed: {escape(error)}."
    order = tpme.order_of(scores)
    first, second = order[0], order[1]
    text = (
        f"{_name(first)} has the lowest TPME, {scores[first]:.3f}, ahead of {_name(second)} at {scores[second]:.3f}, "
        f"and is first in {first_shares(comparison)[first]:.0%} of all weightings of time, parameters and memory"
    )
    if spread is None:
        return f"{text}.{_no_better_than_popularity(comparison, first)}"
    level = spread.level_with(first)
    drawn = "steps and seeds" if spread.seeds > 1 else "steps"
    text += f"; in a bootstrap over {drawn} it is first in {spread.first[first]:.0%} of the draws"
    same = f", {NO_DIFFERENCE} from {_names(level)}" if level else ""
    return f"{text}{same}.{_no_better_than_popularity(comparison, first)}"


def _no_better_than_popularity(comparison: Comparison, method: str) -> str:
    """Sentence if the method of lowest TPME is not more accurate than ranking by popularity; else empty."""
    floor, accuracy = comparison.reference("popularity", "hr@10"), comparison.value(method, "hr@10")
    if floor is None or accuracy is None or accuracy > floor or comparison.random_weights:
        return ""
    return (
        f" TPME does not take accuracy into account: the HR@10 of {_name(method)}, {accuracy:.3f}, is not above that "
        f"of ranking by popularity ({floor:.3f})."
    )


def _against_baseline(comparison: Comparison) -> str:
    if not comparison.seeds(BASELINE):
        why = "did not end ok" if BASELINE in comparison.methods else "is not part of this comparison"
        return f"{_name(BASELINE)} {why}, so costs and accuracy cannot be compared with it."
    others = _notable(comparison)
    if not others:
        return f"No method other than {_name(BASELINE)} ended ok, so there is nothing to compare with it."
    return (
        f"Compared with {_name(BASELINE)}, {'; '.join(_costs_and_accuracy(comparison, method) for method in others)}."
    )


def _notable(comparison: Comparison) -> list[str]:
    """Methods to compare with `fft`: the one of lowest TPME and the most accurate one, without `fft`."""
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


def _costs_and_accuracy(comparison: Comparison, method: str) -> str:
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
        return f"{text}, with an unknown interval"
    return f"{text}, {NO_DIFFERENCE}" if overlap else f"{text}, with intervals that do not overlap"


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
