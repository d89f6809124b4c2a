"""The part of a report that says which differences in accuracy are real, over users."""

from __future__ import annotations

from itertools import product

from reports.analysis import resampling
from reports.analysis.comparison import BASELINE, Comparison
from reports.analysis.paired import Difference, Paired
from reports.load import ranks
from reports.text import count, escape, table

NO_DIFFERENCE = "no difference shown"

_ABOUT = ("p (Holm)", "Seeds that agree", "")


def section(comparison: Comparison) -> str:
    """Intervals over users, and the methods in pairs; a sentence where there is nothing to compare."""
    if comparison.random_weights:
        return "The backbones were initialised at random: accuracy has no meaning, and nothing is tested."
    if comparison.paired is None:
        return "No cell has kept the ranks of its users (ranks.csv), so there are no intervals over users and no tests."
    parts = [_how(comparison.paired), _estimates(comparison, comparison.paired)]
    if comparison.paired.differences:
        parts += [_pairs(comparison, comparison.paired), _matrix(comparison.paired)]
    return "\n\n".join(parts)


def _how(paired: Paired) -> str:
    text = (
        f"Over the {count(paired.users)} test users: what a user adds to a metric is averaged over the seeds, then "
        f"users are drawn anew {count(resampling.RESAMPLES)} times (95 % percentile intervals). "
    )
    if any(len(seeds) > 1 for seeds in paired.seeds.values()):
        return text + (
            "So the intervals here are about other users of these trained models; whether other seeds would give the "
            "same, the t intervals over seeds in the table above say."
        )
    return text + "With one seed nothing says whether another seed would give the same."


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
    """Every method against the most accurate one and against `fft`."""
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
    text = (
        "Methods in pairs, user by user: the mean difference with its 95 % interval, and p of a two-sided permutation "
        f"test ({count(resampling.PERMUTATIONS)} random swaps of a user's two results), corrected by Holm over all "
        f"{pairs} pairs of methods of a metric, so that none can come out below "
        f"{2 * pairs / (resampling.PERMUTATIONS + 1):.2g}. "
        f"From a corrected p of {resampling.LEVEL:g} on: {NO_DIFFERENCE}."
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
    """HR@10 of all pairs: row minus column, bold where the test tells them apart."""
    methods = list(paired.seeds)
    rows = []
    for row in methods[:-1]:
        cells = []
        for place, column in enumerate(methods[1:], 1):
            found = paired.difference("hr@10", row, column) if methods.index(row) < place else None
            cells.append("" if found is None else f"**{signed(found.mean)}**" if found.shown else signed(found.mean))
        rows.append([escape(row), *cells])
    text = "HR@10 of all pairs, row minus column; bold where the test tells them apart:"
    return f"{text}\n\n{table(['', *map(escape, methods[1:])], rows)}"


def signed(value: float) -> str:
    """A difference with its sign, and none on zero: +0.012, −0.003, 0.000."""
    text = f"{abs(value):.3f}"
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


def p_value(p: float) -> str:
    """Three decimals; what is smaller is said to be so."""
    return "&lt; 0.001" if p < 0.001 else f"{p:.3f}"
