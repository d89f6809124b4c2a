"""What is said of a stretch of steps, against the standard library."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

from bench.measure.clock import Row, drift, step_warnings, summary
from bench.records.columns import PHASES


def rows_of(seconds: list[float], **phases: float) -> list[Row]:
    """Rows of given seconds whose phases are fixed shares of them."""
    return [
        {"epoch": 0, "step": i, "seconds": s, **{name: s * phases[name] if name in phases else None for name in PHASES}}
        for i, s in enumerate(seconds)
    ]


def test_summary_against_the_standard_library() -> None:
    seconds = [0.9, 1.0, 1.4, 1.1, 2.0, 1.3, 0.8, 1.2]
    result = summary(rows_of(seconds, data=0.25, forward=0.5))
    quarters = statistics.quantiles(seconds, n=4, method="inclusive")
    twentieths = statistics.quantiles(seconds, n=20, method="inclusive")
    assert result["count"] == 8
    assert [result["q25"], result["median"], result["q75"]] == pytest.approx(quarters)
    assert result["p95"] == pytest.approx(twentieths[-1])
    assert result["cv"] == pytest.approx(statistics.stdev(seconds) / statistics.mean(seconds))
    assert result["phases"] == {**dict.fromkeys(PHASES), "data": pytest.approx(0.25), "forward": pytest.approx(0.5)}


def test_a_share_counts_every_second_also_of_steps_without_the_phase() -> None:
    rows = rows_of([1.0, 3.0], forward=1.0)
    rows[1]["forward"] = None
    assert summary(rows)["phases"]["forward"] == pytest.approx(0.25)


def test_summary_of_nothing_and_of_one_step_makes_no_figures_up() -> None:
    nothing = summary([])
    assert nothing["count"] == 0
    assert [nothing[key] for key in ("median", "q25", "q75", "p95", "cv")] == [None] * 5
    assert set(nothing["phases"].values()) == {None}
    one = summary(rows_of([2.0]))
    assert (one["median"], one["p95"], one["cv"]) == (2.0, 2.0, None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0] * 3 + [7.0] * 3 + [1.2] * 3, 0.2),
        ([2.0] * 3 + [7.0] * 4 + [1.0] * 3, -0.5),
        ([1.0] * 8, None),
        ([], None),
    ],
)
def test_drift_compares_the_outer_thirds(seconds: list[float], expected: float | None) -> None:
    assert drift(rows_of(seconds)) == (None if expected is None else pytest.approx(expected))


def test_warnings_name_drift_and_variation_beyond_their_limits() -> None:
    assert step_warnings([]) == []
    assert step_warnings(rows_of([1.0, 1.04, 0.96] * 5)) == []
    slower = step_warnings(rows_of([1.0] * 10 + [1.03] * 10 + [1.06] * 10))
    assert [text for text in slower if "+6.0%" in text] == slower
    assert len(slower) == 1
    unsteady = step_warnings(rows_of([1.0, 2.0] * 10))
    assert len(unsteady) == 1
    assert "variation" in unsteady[0]


def test_reading_steps_needs_no_torch() -> None:
    program = "import sys, bench.measure.clock; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
