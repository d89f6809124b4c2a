"""Sections on accuracy: intervals over users, tests of the differences between methods, warm and cold targets."""

from __future__ import annotations

import math
from itertools import product

from reports.analysis import resampling
from reports.analysis.comparison import BASELINE, Z95, Comparison
from reports.analysis.main_table import FLOORS, REFERENCES
from reports.analysis.paired import Difference, Paired
from reports.load import ranks
from reports.text import count, escape, table

NO_DIFFERENCE = "no difference shown"

_ABOUT = ("p (Holm)", "Seeds that agree", "")


def section(comparison: Comparison) -> str:
    """Intervals over users and tests of pairs of methods; a sentence if there is nothing to compare."""
    if comparison.random_weights:
        return "The backbones were initialised at random: accuracy has no meaning, and no test is made."
    if comparison.paired is None:
        return "No cell kept the ranks of its users (ranks.csv), so there are no intervals over users and no tests."
    parts = [_how(comparison.paired), _estimates(comparison, comparison.paired)]
    if comparison.paired.differences:
        parts += [_pairs(comparison, comparison.paired), _matrix(comparison.paired)]
    return "\n\n".join(parts)


def _how(paired: Paired) -> str:
    text = (
        f"The intervals are 95 % percentile bootstrap intervals over the {count(paired.users)} test users: the "
        "contribution of each user to a metric is averaged over the seeds, then users are drawn with replacement "
        f"{count(resampling.RESAMPLES)} times. "
    )
    if any(len(seeds) > 1 for seeds in paired.seeds.values()):
        return text + (
            "They cover other users of the same trained models. The t intervals over seeds in the table above cover "
            "other seeds."
        )
    return text + "With one seed, the variation between seeds is unknown."


def _estimates(comparison: Comparison, paired: Paired) -> str:
    wanted = [(metric, k) for metric in ranks.METRICS for k in comparison.options.ks]
    header = ["Method", "Seeds", *(ranks.title(metric, k) for metric, k in wanted)]
    rows = []
    for method, seeds in paired.seeds.items():
        found = [paired.estimates[method, ranks.column(metric, k)] for metric, k in wanted]
        rows.append(
            [escape(method), str(len(seeds)), *(f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})" for one in found)]
        )
    return table(header, rows)


def _pairs(comparison: Comparison, paired: Paired) -> str:
    """Table of the tests of every method against the most accurate one and against `fft`."""
    best = max(paired.seeds, key=lambda method: paired.estimates[method, "hr@10"].mean)
    others = [*paired.seeds]
    rows = []
    seen: set[frozenset[str]] = set()
    for reference, method in product(dict.fromkeys([best, BASELINE]), others):
        found = comparison.tested(method, reference), comparison.tested(method, reference, "ndcg@10")
        if found[0] is None or found[1] is None or frozenset((method, reference)) in seen:
            continue
        seen.add(frozenset((method, reference)))
        rows.append([f"{escape(method)} − {escape(reference)}", *_difference(found[0]), *_difference(found[1])])
    header = ["Pair", "HR@10", *_ABOUT, "NDCG@10", *_ABOUT]
    pairs = len({frozenset((found.first, found.second)) for found in paired.differences})
    all_pairs = "the one pair" if pairs == 1 else f"all {pairs} pairs"
    text = (
        "Pairs of methods are compared user by user: mean difference with its 95 % interval, and p of a two-sided "
        f"permutation test ({count(resampling.PERMUTATIONS)} random swaps of the two results of a user). Holm's "
        f"correction is over {all_pairs} of methods of a metric, so the smallest possible p is "
        f"{2 * pairs / (resampling.PERMUTATIONS + 1):.2g}. "
        f"“{NO_DIFFERENCE.capitalize()}” means a corrected p of {resampling.LEVEL:g} or more."
    )
    return f"{text}\n\n{table(header, rows)}"


def _difference(found: Difference) -> list[str]:
    return [
        f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})",
        p_value(found.p_holm),
        f"{found.agreeing} of {found.seeds}",
        "**differs**" if found.shown else NO_DIFFERENCE,
    ]


def _matrix(paired: Paired) -> str:
    """Matrix of the differences in HR@10 of all pairs, row minus column; bold if a difference is shown."""
    methods = list(paired.seeds)
    rows = []
    for row in methods[:-1]:
        cells = []
        for place, column in enumerate(methods[1:], 1):
            found = paired.difference("hr@10", row, column) if methods.index(row) < place else None
            cells.append("" if found is None else f"**{signed(found.mean)}**" if found.shown else signed(found.mean))
        rows.append([escape(row), *cells])
    text = "Difference in HR@10 of all pairs, row minus column; bold if a difference is shown:"
    return f"{text}\n\n{table(['', *map(escape, methods[1:])], rows)}"


def warm_and_cold(comparison: Comparison) -> str:
    """Accuracy on targets that training has seen and on those it never saw; empty if the records do not tell."""
    known = [] if comparison.random_weights else comparison.measured("cold_targets")
    if not known:
        return ""
    warm, cold = (round(comparison.value(known[0], f"{part}_targets") or 0) for part in ("warm", "cold"))
    if not cold:
        return f"Training has seen all {count(warm)} test targets."
    columns = {f"{part}_{metric}@10": n for part, n in (("warm", warm), ("cold", cold)) for metric in ("hr", "ndcg")}
    rows = {
        name: [f"_{words}_", *("" if value is None else f"_{value:.3f}_" for value in values)]
        for name, words in REFERENCES.items()
        if any(values := [comparison.reference(name, column) for column in columns])
    }
    floors = [rows.pop(name) for name in FLOORS if name in rows]
    methods = [
        [escape(method), *(_of_part(comparison, method, column, n) for column, n in columns.items())]
        for method in known
    ]
    header = ["Method", "HR@10, warm", "NDCG@10, warm", "HR@10, cold", "NDCG@10, cold"]
    text = (
        f"A test target is warm if it occurs in the training interactions of any user, as {count(warm)} of "
        f"{count(warm + cold)} do. The other {count(cold)} are cold: training has never seen them, and a method knows "
        "them by their content alone. With several seeds ± is half of the 95 % t interval over seeds; with one seed, "
        "brackets hold the 95 % interval of HR@10 over the users of the column (Wilson)."
    )
    return f"{text}\n\n{table(header, [*floors, *methods, *rows.values()])}"


def _of_part(comparison: Comparison, method: str, column: str, users: int) -> str:
    """Accuracy over a part of the users, with an interval; with one seed a hit rate has the one of Wilson."""
    mean = comparison.value(method, column)
    if mean is None or "hr@" not in column or comparison.seeds(method) > 1 or not users:
        return accuracy_of(comparison, method, column)
    middle = (mean + Z95**2 / (2 * users)) / (1 + Z95**2 / users)
    half = Z95 * math.sqrt(mean * (1 - mean) / users + (Z95 / (2 * users)) ** 2) / (1 + Z95**2 / users)
    return f"{mean:.3f} ({middle - half:.3f} to {middle + half:.3f})"


def accuracy_of(comparison: Comparison, method: str, column: str = "hr@10") -> str:
    """Accuracy of a method as text, with half of its 95 % interval; empty if it was not measured."""
    spread = comparison.spread(method, column)
    if spread is None:
        return ""
    return f"{spread.mean:.3f}" + (f" ± {spread.half:.3f}" if spread.half else "")


def signed(value: float, decimals: int = 3) -> str:
    """A difference with its sign, which zero does not have: +0.012, −0.003, 0.000."""
    text = f"{abs(value):.{decimals}f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def p_value(p: float) -> str:
    """p with three decimals as Markdown; `&lt; 0.001` for a smaller one."""
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"
