"""The simplex of the three TPME weights, cut into the parts in which each method is first: exact, without a grid.

Scores are linear in the weights, so a method is first on the part of the triangle that lies on its side of a straight
line against every other method: a convex polygon, found by cutting the triangle line by line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.scoring.tpme import Table, normalised

FloatArray = NDArray[np.float64]

_EQUAL = 1e-12  # costs and scores closer than this are equal: the rest is rounding
_NOTHING = 1e-12  # a part of this share of the triangle is a line or a point


@dataclass(frozen=True)
class Region:
    """The part of the triangle of weights in which a method is first."""

    methods: tuple[str, ...]
    """One, or several whose costs are all equal."""
    corners: FloatArray
    """Weights of time, parameters and memory, (n, 3), around a convex polygon; n = 0 for methods that never lead."""
    share: float
    """Of the area of the triangle. All shares sum to 1."""


def first_regions(table: Table, reference: Table | None = None) -> tuple[Region, ...]:
    """Where each method has the lowest TPME, in the order of the table.

    Raises:
        UserError: as `bench.scoring.tpme.tpme`.
    """
    names, costs = normalised(table, reference)
    groups: list[tuple[list[str], FloatArray]] = []
    for name, row in zip(names, costs, strict=True):
        same = next((members for members, other in groups if np.abs(other - row).max() <= _EQUAL), None)
        if same is None:
            groups.append(([name], row))
        else:
            same.append(name)
    found = []
    for members, row in groups:
        corners = np.eye(3)
        for _, other in groups:
            if other is not row:
                corners = _cut(corners, row - other)
        share = _area(corners)
        led = share > _NOTHING
        found.append(Region(tuple(members), corners if led else np.empty((0, 3)), share if led else 0.0))
    return tuple(found)


def _cut(corners: FloatArray, gap: FloatArray) -> FloatArray:
    """What a convex polygon keeps on the side where the weighted gap to another method is not above 0."""
    heights = corners @ gap
    kept: list[FloatArray] = []
    for place, (corner, height) in enumerate(zip(corners, heights, strict=True)):
        before, before_height = corners[place - 1], heights[place - 1]
        if (height > _EQUAL) != (before_height > _EQUAL):
            kept.append(before + (corner - before) * before_height / (before_height - height))
        if height <= _EQUAL:
            kept.append(corner)
    return np.array(kept).reshape(-1, 3)


def _area(corners: FloatArray) -> float:
    """Share of the triangle, by the shoelace formula on two of the three weights."""
    if len(corners) < 3:
        return 0.0
    x, y = corners[:, 0], corners[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
