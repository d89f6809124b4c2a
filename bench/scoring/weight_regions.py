"""Regions of the triangle of TPME weights in which each method is first, exact and without a grid.

Scores are linear in the weights, so a straight line separates the weights under which one method is ahead of another.
The region of a method is a convex polygon: the triangle cut along its lines against all other methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.scoring.tpme import Table, normalised

FloatArray = NDArray[np.float64]

_EQUAL = 1e-12  # costs and scores that differ by less are equal; the difference is rounding
_EMPTY = 1e-12  # a region with at most this share of the triangle is a line or a point


@dataclass(frozen=True)
class Region:
    """Part of the triangle of weights in which a method, or several with equal costs, is first."""

    methods: tuple[str, ...]
    """Names of one method, or of several with equal costs."""
    corners: FloatArray
    """Corners of the polygon in weights of time, parameters and memory, (n, 3); n = 0 if a method is never first."""
    share: float
    """Share of the area of the triangle; the shares of all regions sum to 1."""


def first_regions(table: Table, reference: Table | None = None) -> tuple[Region, ...]:
    """Regions of weights in which each method has the lowest TPME, in the order of the table.

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
    regions = []
    for members, row in groups:
        corners = np.eye(3)
        for _, other in groups:
            if other is not row:
                corners = _cut(corners, row - other)
        share = _area(corners)
        is_first = share > _EMPTY
        regions.append(Region(tuple(members), corners if is_first else np.empty((0, 3)), share if is_first else 0.0))
    return tuple(regions)


def _cut(corners: FloatArray, gap: FloatArray) -> FloatArray:
    """Corners of the part of a convex polygon in which the weighted gap to another method is at most 0."""
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
    """Area as a share of the triangle, by the shoelace formula on two of the three weights."""
    if len(corners) < 3:
        return 0.0
    x, y = corners[:, 0], corners[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
