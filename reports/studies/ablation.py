"""Study: variants of a method with other options (ablation), and the agreement of cached and uncached variants."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from reports.analysis.comparison import Comparison, slug
from reports.analysis.per_seed import ended_ok, figure
from reports.load.run_folders import Record
from reports.sections.accuracy import p_value, signed
from reports.studies.study import COSTS, Grid, Strong, Study, Variant, accuracy_of, costs_of, variants
from reports.text import escape

STEM = "ablation"


def study(comparison: Comparison, title: str, stem: str) -> Study | None:
    """Compare the variants of each kind with its base method; None if no variants differ in more than layers."""
    known = variants(comparison)
    sizes = Counter(variant.family for variant in known)
    families = [[v for v in known if v.family == family] for family, n in sizes.items() if n > 1]
    families = [members for members in families if _differ(members)]
    if not families:
        return None
    grids = [
        _grid(comparison, members, known, stem if len(families) == 1 else f"{stem}-{place}-{slug(members[0].family)}")
        for place, members in enumerate(families, 1)
    ]
    parts: list[str | Grid] = [part for grid in grids for part in (grid, _note(grid))]
    twins = [_agreement(comparison, *pair) for members in families for pair in _twins(members)]
    if twins:
        parts += ["Cached and uncached variants, which must agree up to the precision of the cache:", "\n".join(twins)]
    return Study(title, parts)


def _differ(members: Sequence[Variant]) -> bool:
    """True if the variants differ in an option other than `layers` and `cached`."""
    first = members[0].without("layers", "cached")
    return any(variant.without("layers", "cached") != first for variant in members)


def _grid(comparison: Comparison, members: Sequence[Variant], known: Sequence[Variant], stem: str) -> Grid:
    usual = Counter(variant.kind for variant in members).most_common(1)[0][0]
    base = next((v for v in members if v.method == v.kind == usual), members[0])
    others = [variant for variant in known if variant not in members]
    header = ["Method", "What differs", "HR@10", "Difference", "p (Holm)", *(title for _, title, _ in COSTS)]
    rows = [
        [
            variant.method,
            "" if variant == base else _changes(variant, base) if variant in members else "another method",
            accuracy_of(comparison, variant.method),
            *_difference(comparison, variant.method, base.method),
            *costs_of(comparison, variant.method, base.method),
        ]
        for variant in [base, *(v for v in members if v != base), *others]
    ]
    return Grid(stem, header, rows, words=2)


def _note(grid: Grid) -> str:
    """Explanation of a grid, whose first row is the base method."""
    return (
        f"Each method is compared with {escape(grid.rows[0][0])}: the difference in HR@10 is paired by user, with its "
        "95 % bootstrap interval, and bold if the test shows a difference. The number in brackets is the ratio."
    )


def _changes(variant: Variant, base: Variant) -> str:
    names = [n for n in dict.fromkeys([*base.options, *variant.options]) if n not in ("cached",)]
    changed = [n for n in names if variant.options.get(n) != base.options.get(n)]
    words = [f"{n.replace('_', ' ')} {_plain(variant.options.get(n, 'as usual'))}" for n in changed]
    if bool(variant.options.get("cached")) != bool(base.options.get("cached")):
        words.append("cached" if variant.options.get("cached") else "not cached")
    return ", ".join(words) or "nothing"


def _plain(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _difference(comparison: Comparison, method: str, base: str) -> list[str]:
    if method == base:
        return ["", ""]
    found = comparison.tested(method, base)
    if found is not None:
        words = f"{signed(found.mean)} ({signed(found.low)} to {signed(found.high)})"
        return [Strong(words) if found.shown else words, p_value(found.p_holm)]
    own, other = comparison.value(method, "hr@10"), comparison.value(base, "hr@10")
    return ["" if own is None or other is None else signed(own - other), ""]


def _twins(members: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Pairs of variants that differ in the cache alone, the uncached variant first."""
    live = [variant for variant in members if not variant.options.get("cached")]
    cached = [variant for variant in members if variant.options.get("cached")]
    return [(a, b) for a in live for b in cached if a.without("cached") == b.without("cached")]


def _agreement(comparison: Comparison, live: Variant, cached: Variant) -> str:
    """Sentence on the agreement of two variants: their training losses and their hits in the first ten."""
    pairs = [
        (one, other)
        for one in ended_ok(comparison, live.method)
        for other in ended_ok(comparison, cached.method)
        if one.row.get("seed") == other.row.get("seed")
    ]
    names = f"{escape(live.method)} and {escape(cached.method)}"
    apart = [gap for one, other in pairs if (gap := _loss_gap(one, other)) is not None]
    if not apart:
        return f"- {names}: no seed has losses of both methods."
    kept = {str(other.training.get("cache_dtype")) for _, other in pairs if other.training.get("cache_dtype")}
    stored = f" (the cache holds {escape(', '.join(sorted(kept)))})" if kept else ""
    text = f"- {names}: the training loss {agreement(max(apart))}{stored}"
    same = [share for one, other in pairs if (share := _same_lists(one, other)) is not None]
    if same:
        text += f"; for {100 * min(same):.1f} % of the users "
        text += "the target is among the first ten items of both methods or of neither"
    return f"{text}."


def agreement(gap: float) -> str:
    """Largest relative difference of two losses in words, for instance `agrees to 4 digits (...)`."""
    if gap == 0:
        return "agrees to the last digit"
    digits = math.floor(-math.log10(gap))
    if digits < 1:
        return f"**does not agree**: it differs by {100 * gap:.0f} %"
    return f"agrees to {digits} digit{'s' * (digits > 1)} (largest relative difference {gap:.1g})"


def _loss_gap(one: Record, other: Record) -> float | None:
    """Largest relative difference of the losses over the evaluations that both records have; None without any."""
    losses = [
        (a, b)
        for mine, theirs in zip(one.curve, other.curve, strict=False)
        if (a := figure(mine, "loss")) is not None and (b := figure(theirs, "loss")) is not None
    ]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in losses), default=None)


def _same_lists(one: Record, other: Record) -> float | None:
    if one.ranks is None or other.ranks is None or one.ranks.users != other.ranks.users:
        return None
    return float(np.mean((one.ranks.test <= 10) == (other.ranks.test <= 10)))
