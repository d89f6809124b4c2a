"""The measurement of the meters: on made-up times with a known answer, and on a cell with meters that cost too much."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.measure.clock import StepClock
from bench.utils.errors import UserError
from tests.benchmarks.meter_overhead import Bench, Overhead, alternate, choose, main, ratio_of_medians, show
from tests.tiny import cell_of


def drifting(share: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pairs on a machine that becomes three times slower, with outliers; steps with meters take ``share`` longer."""
    rng = np.random.default_rng(0)

    def block(metered: bool, pair: int) -> np.ndarray:
        base = 0.01 * (1 + 2 * pair / 99) * rng.normal(1, 0.01, 15)
        base[rng.random(15) < 0.1] *= 20
        return base * (1 + share if metered else 1)

    return alternate(block, 100)


@pytest.mark.parametrize("share", [0.0, 0.03])
def test_a_known_overhead_is_found_in_spite_of_drift_and_outliers(share: float) -> None:
    ratio, low, high = ratio_of_medians(*drifting(share))
    assert low <= 1 + share <= high
    assert ratio == pytest.approx(1 + share, abs=0.003)
    assert high - low < 0.01


def test_the_interval_is_that_of_a_bootstrap_over_pairs() -> None:
    ratios = np.random.default_rng(1).normal(1.1, 0.05, 60)
    _, low, high = ratio_of_medians([np.array([r]) for r in ratios], [np.ones(1)] * 60)
    from scipy.stats import bootstrap

    other = bootstrap((ratios,), np.median, method="percentile", rng=np.random.default_rng(5)).confidence_interval
    assert low == pytest.approx(other.low, abs=0.005)
    assert high == pytest.approx(other.high, abs=0.005)


def test_neither_side_is_always_the_first() -> None:
    seen: list[tuple[int, bool]] = []

    def block(metered: bool, pair: int) -> np.ndarray:
        seen.append((pair, metered))
        return np.ones(1)

    on, off = alternate(block, 4)
    assert len(on) == len(off) == 4
    assert [metered for _, metered in seen] == [True, False, False, True, True, False, False, True]
    assert [pair for pair, _ in seen] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_meter_that_sleeps_is_caught(model_folders: dict[str, Path]) -> None:
    """Each step has six borders at least: a clock that takes 2 ms to read adds 12 ms or more."""

    def slow() -> int:
        time.sleep(0.002)
        return time.perf_counter_ns()

    used: list[StepClock] = []

    @contextmanager
    def meters() -> Iterator[StepClock]:
        used.append(StepClock(torch.device("cpu"), now=slow))
        yield used[-1]

    bench = Bench(cell_of("iisan-cached", model_folders), steps=4, meters=meters)
    on, off = alternate(bench.block, 3)
    assert [len(block) for block in (*on, *off)] == [4] * 6
    assert [len(clock.rows) for clock in used] == [5] * 3  # the untimed first step too
    # The fastest of each: what else the machine does can only make a step slower.
    assert np.min(np.concatenate(on)) - np.min(np.concatenate(off)) > 0.011
    assert ratio_of_medians(on, off)[1] > 1.01
    assert len(bench.once) == 3


def test_blocks_longer_than_an_epoch(model_folders: dict[str, Path]) -> None:
    bench = Bench(cell_of("frozen", model_folders), steps=8)  # three steps are an epoch
    on, off = alternate(bench.block, 1)
    assert [len(on[0]), len(off[0])] == [8, 8]


@pytest.mark.parametrize(
    ("low", "high", "said"), [(-0.01, 0.01, "shown"), (0.011, 0.02, "missed"), (0.0, 0.02, "not shown by this run")]
)
def test_the_verdict_is_about_the_whole_interval(low: float, high: float, said: str) -> None:
    found = Overhead("m", "cpu", 3, 5, (low + high) / 2, low, high, 0.0123, 0.0122, 0.001)
    assert found.verdict.startswith(f"at most 1%: {said}")
    assert "12.300 ms" in show(found)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--preset", "smoke", "--pairs", "1", "--steps", "2", "--device", "cpu", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["device"], found["pairs"], found["steps"]) == ("iisan-cached", "cpu", 1, 2)
    assert found["step_on"] > 0
    assert code == (found["low"] > found["target"])


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--method", "nobody"]) == 2
    assert "--method nobody: preset default has fft" in capsys.readouterr().err
    assert main(["--preset", "nobody"]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["--pairs", "0"])
    assert stop.value.code == 2
    assert "invalid number value: '0'" in capsys.readouterr().err
    with pytest.raises(UserError, match="--device"):
        choose("default", "frozen", "gpu")
