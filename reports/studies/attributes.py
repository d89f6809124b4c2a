"""Study: which attributes of the items the vectors of each method hold, for data whose attributes are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtri

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import ended_ok, figure
from reports.figures.drawing import rendered
from reports.figures.style import INK_ON_FILL, new_figure, short
from reports.sections.accuracy import signed
from reports.studies.study import Grid, Strong, Study, variants
from reports.text import count, escape, listing

STEM = "attributes"
REFERENCE = "frozen"
"""Kind of the method that all others are compared with, since it cannot change what the encoders say of an item."""
NOWHERE = 1.5
"""Largest accuracy, as a multiple of chance, at which an attribute counts as absent."""


@dataclass(frozen=True)
class Held:
    """Accuracy of the probe of one attribute of one method, as means over the seeds."""

    accuracy: float
    chance: float
    items: int

    @property
    def variance(self) -> float:
        """Variance of the accuracy over other items, with one success and one failure added (Agresti and Caffo)."""
        share = (self.accuracy * self.items + 1) / (self.items + 2)
        return share * (1 - share) / (self.items + 2)


@dataclass(frozen=True)
class Change:
    """Difference in the accuracy of a probe to the reference, with its simultaneous 95 % interval."""

    mean: float
    half: float

    @property
    def shown(self) -> bool:
        """True if the interval does not hold zero."""
        return abs(self.mean) > self.half

    def __str__(self) -> str:
        return f"{signed(self.mean)}, {signed(self.mean - self.half)} to {signed(self.mean + self.half)}"


Probes = Mapping[str, Mapping[str, Held]]
"""Probes by method and attribute."""
Changes = Mapping[str, Mapping[str, Change]]
"""Differences to the reference by method and attribute, without the reference itself."""


def study(comparison: Comparison, title: str, stem: str) -> Study | None:
    """Show the accuracy of the probes by method and attribute; None if no method was probed or accuracy is void."""
    probes = {method: held for method in comparison.methods if (held := _held(comparison, method))}
    if not probes or comparison.random_weights:
        return None
    reference = next((v.method for v in variants(comparison) if v.kind == REFERENCE and v.method in probes), None)
    if reference is not None:  # the others are read against it, so it stands first
        probes = {reference: probes[reference], **probes}
    changes = differences(probes, reference)
    names = list(dict.fromkeys(name for held in probes.values() for name in held))
    drawn = [method for method in probes if method in comparison.drawn]
    drawing = rendered(
        stem, "What the item vectors hold", _caption(reference), lambda: _figure(probes, changes, drawn, names)
    )
    grid = Grid(stem, ["Method", *names], _rows(probes, changes, names))
    return Study(title, [_about(probes, reference), grid, _findings(probes, changes, names, reference)], [drawing])


def _held(comparison: Comparison, method: str) -> dict[str, Held]:
    records = ended_ok(comparison, method)
    found = {}
    for name in dict.fromkeys(str(name) for record in records for name in record.attributes):
        values = [[figure(r.attributes, name, key) for key in ("accuracy", "chance", "n")] for r in records]
        known = np.array([row for row in values if None not in row], dtype=np.float64)
        if len(known):
            accuracy, chance, items = known.mean(axis=0).tolist()
            found[name] = Held(min(accuracy, 1.0), chance, round(items))
    return found


def differences(probes: Probes, reference: str | None) -> Changes:
    """Differences to the reference, with intervals that hold for all of them at once (Bonferroni); empty without it.

    The items are taken as drawn anew for each method, although they are the same: the intervals are too wide rather
    than too narrow.
    """
    if reference is None:
        return {}
    base = probes[reference]
    pairs = [(method, name) for method, held in probes.items() if method != reference for name in held if name in base]
    z = float(ndtri(1 - 0.05 / (2 * len(pairs)))) if pairs else 0.0
    found: dict[str, dict[str, Change]] = {}
    for method, name in pairs:
        mine, other = probes[method][name], base[name]
        half = z * math.sqrt(mine.variance + other.variance)
        found.setdefault(method, {})[name] = Change(mine.accuracy - other.accuracy, half)
    return found


def _about(probes: Probes, reference: str | None) -> str:
    items = max(held.items for own in probes.values() for held in own.values())
    text = (
        f"{count(items)} new items were drawn like those of the dataset and encoded by the trained item encoder of "
        "each method. A linear probe reads each attribute from their vectors. It is trained on two thirds of the items "
        "and judged on the others, in turn, so that every item counts once. An accuracy near chance means that no "
        "linear map reads the attribute from the vectors."
    )
    if reference is None:
        return text
    return (
        f"{text} Brackets hold the difference to {escape(reference)}; a bold one is beyond sampling error: its 95 % "
        "interval, which holds for all differences of the table at once, does not reach zero. The intervals are about "
        "other items, not about other seeds."
    )


def _rows(probes: Probes, changes: Changes, names: Sequence[str]) -> list[list[str]]:
    rows = [["chance", *(f"{_chance(probes, name):.2f}" for name in names)]]
    for method, held in probes.items():
        cells = []
        for name in names:
            change = changes.get(method, {}).get(name)
            text = f"{held[name].accuracy:.2f}" if name in held else ""
            text = text if change is None else f"{text} ({signed(change.mean, 2)})"
            cells.append(Strong(text) if change is not None and change.shown else text)
        rows.append([method, *cells])
    return rows


def _chance(probes: Probes, name: str) -> float:
    return float(np.mean([held[name].chance for held in probes.values() if name in held]))


def _findings(probes: Probes, changes: Changes, names: Sequence[str], reference: str | None) -> str:
    """A sentence per attribute that a method learnt, lost, or that no method has, and one about the others."""
    lines, alike = [], []
    for name in names:
        text = _finding(probes, changes, name, reference)
        if text:
            lines.append(f"- **{escape(name)}**: {text}")
        else:
            alike.append(escape(name))
    if alike and reference is not None:
        lines.append(f"- No method is shown to differ from {escape(reference)} in {listing(alike)}.")
    return "\n".join(lines)


def _finding(probes: Probes, changes: Changes, name: str, reference: str | None) -> str:
    own = {method: found[name] for method, found in changes.items() if name in found and found[name].shown}
    parts = []
    for word, sign in (("more", 1), ("less", -1)):
        those = [
            f"{escape(method)} ({probes[method][name].accuracy:.2f}: {change})"
            for method, change in own.items()
            if sign * change.mean > 0
        ]
        if those:
            floor = probes[str(reference)][name].accuracy
            parts.append(f"{word} than in {escape(reference)} ({floor:.2f}) in {listing(those)}")
    best, chance = max(held[name].accuracy for held in probes.values() if name in held), _chance(probes, name)
    if best <= NOWHERE * chance:
        parts.append(f"in no method's vectors; no accuracy is above {NOWHERE:g} times chance ({chance:.2f})")
    return "; ".join(parts) + "." * bool(parts)


def _caption(reference: str | None) -> str:
    text = "Accuracy of a linear probe; the colour is its share of the way from chance to 1."
    if reference is None:
        return text
    return f"{text} Below it the difference to {reference}, bold if beyond sampling error."


def _figure(probes: Probes, changes: Changes, methods: Sequence[str], names: Sequence[str]) -> Figure:
    floor = {name: Held(chance := _chance(probes, name), chance, 0) for name in names}
    rows: dict[str, Mapping[str, Held]] = {"chance": floor, **{method: probes[method] for method in methods}}
    shares = np.array([[_share(held.get(name)) for name in names] for held in rows.values()])
    inches = 0.44 * len(rows) + 0.75
    drawn = new_figure(inches)
    axes = drawn.add_axes((0.17, 0.1 / inches, 0.81, 1 - 0.5 / inches))
    axes.imshow(shares, vmin=0, vmax=1, cmap=mpl.colormaps["YlGnBu"], aspect="auto", interpolation="nearest")
    axes.grid(False)
    axes.set_xticks(np.arange(0.5, len(names)), minor=True)
    axes.set_yticks(np.arange(0.5, len(rows)), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(names)), [short(name, 16) for name in names])
    axes.set_yticks(range(len(rows)), [short(method, 16) for method in rows])
    for row, (method, held) in enumerate(rows.items()):
        for column, name in enumerate(names):
            if name not in held:
                continue
            change = changes.get(method, {}).get(name)
            color = "white" if shares[row, column] > 0.55 else INK_ON_FILL
            for text, height, size, bold in (
                (f"{held[name].accuracy:.2f}", 0 if change is None else -0.18, 10.5, False),
                ("" if change is None else signed(change.mean, 2), 0.24, 8.5, change is not None and change.shown),
            ):
                axes.text(column, row + height, text, ha="center", va="center", fontsize=size, color=color,
                          fontweight="bold" if bold else "normal")  # fmt: skip
    return drawn


def _share(held: Held | None) -> float:
    """Share of the way from chance to 1, at least 0; not a number without a probe."""
    return math.nan if held is None else max(held.accuracy - held.chance, 0) / max(1 - held.chance, 1e-9)
