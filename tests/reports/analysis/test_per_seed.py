"""Tests of the format of figures over several seeds."""

from math import sqrt

import pytest

from reports.analysis.per_seed import spread

T_OF_TWO_DEGREES = 4.302653  # 97.5 % point of Student's t, from a printed table


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], ""),
        ([2.5], "2.5000"),
        ([2.5, 2.5, 2.5], "2.5000"),
        ([2.99, 2.9900001, 2.99], "2.9900"),
        ([1.0, 2.0, 3.0], f"2.0000 ± {T_OF_TWO_DEGREES / sqrt(3):.4f}"),
    ],
)
def test_an_interval_is_shown_if_figures_differ(values: list[float], said: str) -> None:
    assert spread(values, "{:.4f}".format) == said
