"""Tests of the choice of a method: against plain loops over random tables, and costs in money."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.choice import choose, dominated, price, run_seconds
from reports.analysis.comparison import Comparison
from reports.analysis.options import Options
from reports.analysis.tradeoff import score_spread
from tests.reports.factory import make_run
from tests.reports.reading import comparison_of, read_comparison

COSTS = ("epoch_seconds", "trainable_params", "peak_memory_bytes")


def comparison_with(path: Path, rows: Mapping[str, Mapping[str, Any]], **options: Any) -> Comparison:
    return read_comparison(make_run(path, list(rows), [0], rows), options=Options(**options))


@pytest.mark.parametrize("seed", range(6))
def test_choice_and_dominance_are_those_of_plain_loops(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = {
        f"m{place}": {"hr@10": draw.randrange(20, 30) / 100, **{column: draw.randrange(1, 5) for column in COSTS}}
        for place in range(7)
    }
    within = draw.choice([0.0, 0.05, 0.2])
    comparison = comparison_with(tmp_path / "run", rows, within=within)

    beaten = {
        name: {
            other
            for other, its in rows.items()
            if its["hr@10"] >= own["hr@10"]
            and all(its[column] <= own[column] for column in COSTS)
            and any(its[column] != own[column] for column in ("hr@10", *COSTS))
        }
        for name, own in rows.items()
    }
    found = dominated(comparison, None)
    assert set(found) == {name for name, others in beaten.items() if others}
    for name, by in found.items():
        assert by in beaten[name]
        assert rows[by]["hr@10"] == max(rows[other]["hr@10"] for other in beaten[name])
        assert by not in found  # one that is beaten itself beats nobody in the verdict

    scores = comparison.summary["tpme"]
    highest = max(row["hr@10"] for row in rows.values())
    enough = [name for name, row in rows.items() if row["hr@10"] >= (1 - within) * highest]
    choice = choose(comparison)
    assert choice is not None
    assert choice.chosen in enough
    assert scores[choice.chosen] == min(scores[name] for name in enough)
    assert rows[choice.best]["hr@10"] == highest
    assert set(choice.cheaper) == {name for name in rows if scores[name] < scores[choice.chosen]}


def test_without_a_score_the_seconds_decide(tmp_path: Path) -> None:
    sources = {"fft": {"memory_source": "account"}, "lora": {"memory_source": "nvml_process_bytes", "hr@10": 0.26}}
    comparison = comparison_with(tmp_path / "run", sources, within=0.5)
    choice = choose(comparison)
    assert choice is not None
    assert (choice.chosen, choice.by) == ("lora", "epoch_seconds")
    assert dominated(comparison, None) == {}  # memory of two sources is not compared


def test_nothing_is_chosen_without_a_meaning_or_an_alternative(tmp_path: Path) -> None:
    assert choose(comparison_of(tmp_path / "alone", methods=["fft"])) is None
    random_weights = comparison_of(tmp_path / "random", weights="random")
    assert choose(random_weights) is None
    assert dominated(random_weights, None) == {}


def test_methods_whose_costs_differ_by_chance_do_not_beat_each_other(tmp_path: Path) -> None:
    cheap = {"trainable_params": 9, "peak_memory_bytes": 9, "hr@10": 0.2}
    rows = {
        "fft": {"epoch_seconds": 90.0, "trainable_params": 90, "peak_memory_bytes": 90, "hr@10": 0.2},
        "lora": {"epoch_seconds": 10.0, **cheap},
        "twin": {"epoch_seconds": 10.001, **cheap},
    }
    comparison = comparison_with(tmp_path / "run", rows)
    spread = score_spread(comparison)
    assert spread is not None
    assert spread.level_with("twin") == ["lora"]
    assert dominated(comparison, None) == {"fft": "lora", "twin": "lora"}
    assert dominated(comparison, spread) == {"fft": "lora"}


def test_the_whole_run_is_training_and_the_cache(tmp_path: Path) -> None:
    rows: dict[str, dict[str, Any]] = {
        "fft": {"train_seconds": 60.0},
        "iisan-cached": {"train_seconds": 6.0},  # the factory gives it a cache of 2 seconds
        "lora": {"train_seconds": None},
    }
    comparison = comparison_with(tmp_path / "run", rows, price_per_hour=7.2)
    assert run_seconds(comparison, "fft") == 60
    assert run_seconds(comparison, "iisan-cached") == 8
    assert run_seconds(comparison, "lora") is None
    assert price(comparison, 60.0) == pytest.approx(0.12)
    assert price(comparison, None) is None
    assert price(comparison_of(tmp_path / "free"), 60.0) is None


def test_a_cache_of_unknown_seconds_leaves_the_run_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["iisan-cached", "fft"], [0])
    comparison = read_comparison(run)
    comparison.summary.loc["iisan-cached", "cache_seconds"] = None
    assert run_seconds(comparison, "iisan-cached") is None
    assert run_seconds(comparison, "fft") is not None
