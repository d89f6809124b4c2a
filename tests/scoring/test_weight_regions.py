"""The exact parts of the simplex against a grid, against symmetry, and against methods that are the same."""

from __future__ import annotations

import numpy as np
import pytest

from bench.scoring import tpme
from bench.scoring.weight_regions import first_regions
from bench.utils.errors import UserError
from tests.scoring.tables import PUBLISHED, random_table

Table = dict[str, dict[str, float]]


def costs(**rows: tuple[float, float, float]) -> Table:
    return {name: dict(zip(tpme.COLUMNS, row, strict=True)) for name, row in rows.items()}


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_a_fine_grid(seed: int) -> None:
    table = random_table(seed, 7)
    regions = first_regions(table)
    assert sum(region.share for region in regions) == pytest.approx(1.0)
    draw = np.random.default_rng(seed)
    weights = draw.dirichlet((1, 1, 1), 40_000)  # even over the triangle
    low = {c: min(row[c] for row in table.values()) for c in tpme.COLUMNS}
    span = {c: max(row[c] for row in table.values()) - low[c] for c in tpme.COLUMNS}
    scores = np.array([[(row[c] - low[c]) / span[c] for c in tpme.COLUMNS] for row in table.values()]) @ weights.T
    counted = np.bincount(scores.argmin(axis=0), minlength=len(table)) / len(weights)
    assert [region.share for region in regions] == pytest.approx(counted, abs=0.012)


@pytest.mark.parametrize("seed", range(3))
def test_corners_are_weights_under_which_the_method_is_first(seed: int) -> None:
    table = random_table(seed, 6)
    for region in first_regions(table):
        for corner in [*region.corners, *([region.corners.mean(axis=0)] if region.share else [])]:
            assert corner.sum() == pytest.approx(1.0)
            assert corner.min() >= -1e-9
            scores = tpme.tpme(table, np.clip(corner, 0, 1) / np.clip(corner, 0, 1).sum())
            assert scores[region.methods[0]] == pytest.approx(min(scores.values()), abs=1e-9)


def test_three_specialists_share_the_triangle() -> None:
    regions = first_regions(costs(fast=(0, 1, 1), small=(1, 0, 1), lean=(1, 1, 0)))
    assert [region.share for region in regions] == pytest.approx([1 / 3] * 3)
    assert [len(region.corners) for region in regions] == [4, 4, 4]


def test_a_straight_line_between_two() -> None:
    # a costs nothing but parameters and b nothing but the rest: a is first where parameters weigh under a half.
    a, b = first_regions(costs(a=(0, 1, 0), b=(1, 0, 1)))
    assert (a.share, b.share) == pytest.approx((0.75, 0.25))


def test_a_method_behind_another_everywhere_has_no_part() -> None:
    regions = {region.methods: region for region in first_regions(costs(a=(0, 0, 0), b=(1, 1, 1), c=(0.5, 0.1, 0.2)))}
    assert regions["a",].share == 1.0
    assert regions["b",].share == regions["c",].share == 0.0
    assert regions["b",].corners.shape == (0, 3)


def test_methods_with_the_same_costs_share_a_part() -> None:
    one, other = first_regions(costs(a=(0, 1, 0), twin=(0, 1, 0), b=(1, 0, 1)))
    assert one.methods == ("a", "twin")
    assert (one.share, other.share) == pytest.approx((0.75, 0.25))


def test_published_table_and_a_pinned_range() -> None:
    shares = {region.methods[0]: region.share for region in first_regions(PUBLISHED)}
    assert shares["iisan-cached"] > 0.99
    assert shares["fft"] == shares["adapter"] == 0.0
    (alone,) = first_regions({"iisan": PUBLISHED["iisan"]}, PUBLISHED)
    assert alone.share == 1.0
    with pytest.raises(UserError, match="alone"):
        first_regions({"iisan": PUBLISHED["iisan"]})
