"""Limits of lines, and the exit status of a table."""

import math

import pytest

from tests.gpu.line import TOY, Line, at_least, at_most, equal, exit_status, failed, skipped


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (at_most("a", 3.0, 3), "ok"),
        (at_most("a", 3.01, 3), "failed"),
        (at_least("a", 0.0, 0), "ok"),
        (at_least("a", -0.01, 0), "failed"),
        (equal("a", "oom", "oom"), "ok"),
        (equal("a", "ok", "oom"), "failed"),
        (equal("a", 2, 1), "failed"),
        (at_most("a", math.nan, 3), "failed"),
        (at_least("a", math.nan, 3), "failed"),
        (at_most("a", None, 3, reason="the driver does not say"), "skipped"),
    ],
)
def test_a_figure_is_held_against_its_limit(line: Line, status: str) -> None:
    assert line.status == status


def test_a_line_shows_figure_and_limit_with_their_unit() -> None:
    line = at_most("overhead", 1.23456, 3, "%", "a reason")
    assert (line.figure, line.limit, line.reason) == ("1.235 %", "≤ 3 %", "a reason")
    assert at_least("bytes", 123456, 0, "MiB").figure == "123456 MiB"
    assert at_most("bytes", None, 64, "MiB").figure == ""


def test_a_line_that_is_not_judged_keeps_its_figure() -> None:
    line = at_most("overhead", 50.0, 1, "%").not_judged()
    assert (line.figure, line.status, line.reason) == ("50 %", "skipped", TOY)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([at_most("a", 1, 2), skipped("b", "needs a card")], 0),
        ([at_most("a", 1, 2), at_most("b", 3, 2)], 1),
        ([at_most("a", 1, 2), failed("b", "it raised")], 1),
        ([skipped("b", "needs a card")], 1),
        ([], 1),
    ],
)
def test_what_falls_short_makes_the_exit_status_1(lines: list[Line], status: int) -> None:
    assert exit_status(lines) == status
