"""Tests of the verdict: its sentences follow from the numbers, whichever method is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.comparison import Comparison, split_into_comparisons
from reports.analysis.tables import results, summary
from reports.load.run_folders import load_run
from reports.sections.verdict import verdict
from tests.reports.factory import USERS, make_run
from tests.reports.reading import comparison_of


def with_accuracy(path: Path, values: Mapping[str, float], **arguments: Any) -> Comparison:
    changes = {method: {"hr@10": value} for method, value in values.items()}
    return comparison_of(path, methods=list(values), changes=changes, **arguments)


def test_the_most_accurate_method_is_named(tmp_path: Path) -> None:
    for place, best in enumerate(["fft", "frozen", "iisan"]):
        values = {name: 0.4 if name == best else 0.2 for name in ("fft", "frozen", "iisan")}
        sentences = verdict(with_accuracy(tmp_path / str(place), values, seeds=[0]))
        assert len(sentences) == 3
        assert sentences[0].startswith(f"**{best}** has the highest HR@10, 0.400")
        assert "0.200 ahead" in sentences[0]
        assert "does not overlap with that of any other" in sentences[0]


def test_one_seed_has_the_standard_error_of_a_share(tmp_path: Path) -> None:
    comparison = with_accuracy(tmp_path / "run", {"fft": 0.25, "lora": 0.26}, seeds=[0])
    spread = comparison.spread("lora", "hr@10")
    error = math.sqrt(0.26 * 0.74 / USERS)
    assert spread is not None
    assert spread.half == pytest.approx(1.959964 * error)
    first = verdict(comparison)[0]
    assert f"a standard error of {error:.3f} over {USERS:,} users" in first
    assert first.endswith("the intervals overlap with **fft**: no difference shown from it.")
    ndcg = comparison.spread("lora", "ndcg@10")
    assert ndcg is not None
    assert ndcg.half is None


def test_overlapping_and_separate_intervals(tmp_path: Path) -> None:
    # One standard error is .011 to .012 here: .28 is apart from .20 and not from .26.
    first = verdict(with_accuracy(tmp_path / "run", {"fft": 0.28, "lora": 0.26, "iisan": 0.20}, seeds=[0]))[0]
    assert "overlap with **lora**: no difference shown from it" in first
    assert "iisan" not in first


def test_all_others_are_not_listed_one_by_one(tmp_path: Path) -> None:
    values = {"fft": 0.26, "lora": 0.25, "iisan": 0.25, "frozen": 0.25}
    first = verdict(with_accuracy(tmp_path / "run", values, seeds=[0]))[0]
    assert first.endswith("the intervals of all others overlap with its interval: no difference shown.")


def test_several_seeds_have_their_own_interval(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=["fft", "lora", "frozen"], seeds=[0, 1, 2])
    spread = comparison.spread("fft", "hr@10")
    assert spread is not None
    assert (spread.source, spread.count) == ("seeds", 3)
    assert "over 3 seeds" in verdict(comparison)[0]


def test_equal_methods_share_the_first_place(tmp_path: Path) -> None:
    values = {"fft": 0.20, "iisan": 0.25, "iisan-cached": 0.25}
    sentences = verdict(with_accuracy(tmp_path / "run", values, seeds=[0]))
    assert sentences[0].startswith("**iisan** and **iisan-cached** share the highest HR@10")


def test_an_unknown_interval_is_mentioned(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    (path / "dataset.json").unlink()
    run = load_run(path)
    cells = results(run.records)
    (comparison,) = split_into_comparisons([run], run.records, cells, summary(cells))
    sentences = verdict(comparison)
    assert "some intervals are unknown" in sentences[0]
    assert "with an unknown interval" in sentences[2]


def test_lowest_tpme_follows_the_costs(tmp_path: Path) -> None:
    cheap = {"epoch_seconds": 1.0, "trainable_params": 1, "peak_memory_bytes": 1}
    dear = {"epoch_seconds": 9.0, "trainable_params": 9, "peak_memory_bytes": 9}
    for place, (first, second) in enumerate([("fft", "lora"), ("lora", "fft")]):
        comparison = comparison_of(
            tmp_path / str(place), methods=["fft", "lora"], seeds=[0], changes={first: cheap, second: dear}
        )
        assert verdict(comparison)[1].startswith(
            f"**{first}** has the lowest TPME, 0.000, ahead of **{second}** at 1.000, and is first in 100%"
        )


def test_costs_and_gains_are_set_against_fft(tmp_path: Path) -> None:
    changes = {
        "fft": {"epoch_seconds": 20.0, "peak_memory_bytes": 1000, "trainable_params": 500, "hr@10": 0.30},
        "iisan": {"epoch_seconds": 5.0, "peak_memory_bytes": 500, "trainable_params": 50, "hr@10": 0.15},
        "lora": {"epoch_seconds": 18.0, "peak_memory_bytes": 900, "trainable_params": 5, "hr@10": 0.31},
    }
    third = verdict(comparison_of(tmp_path / "run", methods=list(changes), seeds=[0], changes=changes))[2]
    cheap, accurate = third.removeprefix("Compared with **fft**, ").split("; ")
    assert cheap == (
        "**iisan** takes 0.25× the seconds per epoch, 0.50× the peak memory and 0.10× the trainable parameters, "
        "and its HR@10 is 0.150 lower (0.50×), with intervals that do not overlap"
    )
    assert accurate == (
        "**lora** takes 0.90× the seconds per epoch, 0.90× the peak memory and 0.01× the trainable parameters, "
        "and its HR@10 is 0.010 higher (1.03×), no difference shown."
    )


def test_without_fft_it_says_so(tmp_path: Path) -> None:
    third = verdict(comparison_of(tmp_path / "a", methods=["lora", "iisan"]))[2]
    assert "fft** is not part of this comparison" in third
    third = verdict(comparison_of(tmp_path / "b", methods=["fft", "lora"], changes={"fft": {"status": "oom"}}))[2]
    assert "fft** did not end ok" in third


def test_methods_not_better_than_popularity_are_mentioned(tmp_path: Path) -> None:
    cheap = {"epoch_seconds": 1.0, "trainable_params": 1, "peak_memory_bytes": 1}  # popularity has 0.094 here
    changes = {"fft": {"hr@10": 0.09}, "lora": {"hr@10": 0.05, **cheap}}
    comparison = comparison_of(tmp_path / "below", methods=["fft", "lora"], seeds=[0], changes=changes)
    accuracy, scores, _ = verdict(comparison)
    assert accuracy.endswith(" No method is above ranking by popularity (0.094).")
    assert scores.endswith("the HR@10 of **lora**, 0.050, is not above that of ranking by popularity (0.094).")
    accuracy = verdict(with_accuracy(tmp_path / "near", {"fft": 0.10, "lora": 0.05}, seeds=[0]))[0]
    assert accuracy.endswith("Its interval contains the HR@10 of ranking by popularity (0.094).")
    sentences = verdict(with_accuracy(tmp_path / "above", {"fft": 0.20, "lora": 0.19}, seeds=[0]))
    assert "popularity" not in " ".join(sentences)


def test_methods_that_failed_are_named(tmp_path: Path) -> None:
    changes = {"lora": {"status": "oom"}, "iisan": {"status": "hung"}}
    sentences = verdict(comparison_of(tmp_path / "run", methods=["fft", "lora", "iisan"], seeds=[0], changes=changes))
    assert "with no other method beside it, because the others did not end ok." in sentences[0]
    assert sentences[-1] == "Not compared, because none of their cells ended ok: **lora** (oom) and **iisan** (hung)."


def test_random_backbones_have_no_best(tmp_path: Path) -> None:
    sentences = verdict(comparison_of(tmp_path / "run", weights="random"))
    assert "says nothing about the methods" in sentences[0]
    assert all("higher" not in text and "lower (" not in text for text in sentences)
    assert "lowest TPME" in sentences[1]


def test_one_method_alone_and_nothing_at_all(tmp_path: Path) -> None:
    sentences = verdict(comparison_of(tmp_path / "a", methods=["fft"]))
    assert "with no other method beside it" in sentences[0]
    assert sentences[1].startswith("TPME cannot be computed: ")
    assert "nothing to compare with it" in sentences[2]
    assert verdict(comparison_of(tmp_path / "b", status="failed")) == [
        "No cell ended ok, so there is nothing to compare."
    ]


def test_names_are_escaped(tmp_path: Path) -> None:
    sentences = verdict(comparison_of(tmp_path / "run", methods=["fft", "*my|method*"]))
    assert all("*my|" not in text for text in sentences)
    assert any("\\*my\\|method\\*" in text for text in sentences)
