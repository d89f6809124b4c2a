"""Tests of the verdict: its sentences follow from the numbers, whichever method is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.comparison import Comparison, split_into_comparisons
from reports.analysis.options import DEFAULT, Options
from reports.analysis.tables import results, summary
from reports.load.run_folders import load_run
from reports.sections.verdict import verdict
from tests.reports.factory import USERS, make_run
from tests.reports.reading import comparison_of, read_comparison


def with_accuracy(path: Path, values: Mapping[str, float], **arguments: Any) -> Comparison:
    changes = {method: {"hr@10": value} for method, value in values.items()}
    return comparison_of(path, methods=list(values), changes=changes, **arguments)


def about(comparison: Comparison, words: str) -> str:
    """The one point of the verdict with these words."""
    [found] = [point for point in verdict(comparison) if words in point]
    return found


def test_the_most_accurate_method_is_named(tmp_path: Path) -> None:
    for place, best in enumerate(["fft", "frozen", "iisan"]):
        values = {name: 0.4 if name == best else 0.2 for name in ("fft", "frozen", "iisan")}
        sentences = verdict(with_accuracy(tmp_path / str(place), values, seeds=[0]))
        assert len(sentences) == 5
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
    assert "with an unknown interval" in sentences[-1]


def test_lowest_tpme_follows_the_costs(tmp_path: Path) -> None:
    cheap = {"epoch_seconds": 1.0, "trainable_params": 1, "peak_memory_bytes": 1}
    dear = {"epoch_seconds": 9.0, "trainable_params": 9, "peak_memory_bytes": 9}
    for place, (first, second) in enumerate([("fft", "lora"), ("lora", "fft")]):
        comparison = comparison_of(
            tmp_path / str(place), methods=["fft", "lora"], seeds=[0], changes={first: cheap, second: dear}
        )
        assert about(comparison, "lowest TPME").startswith(
            f"**{first}** has the lowest TPME, 0.000, ahead of **{second}** at 1.000, and is first in 100%"
        )


def test_costs_and_gains_are_set_against_fft(tmp_path: Path) -> None:
    changes = {
        "fft": {"epoch_seconds": 20.0, "peak_memory_bytes": 1000, "trainable_params": 500, "hr@10": 0.30},
        "iisan": {"epoch_seconds": 5.0, "peak_memory_bytes": 500, "trainable_params": 50, "hr@10": 0.15},
        "lora": {"epoch_seconds": 18.0, "peak_memory_bytes": 900, "trainable_params": 5, "hr@10": 0.31},
    }
    third = verdict(comparison_of(tmp_path / "run", methods=list(changes), seeds=[0], changes=changes))[-1]
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
    third = verdict(comparison_of(tmp_path / "a", methods=["lora", "iisan"]))[-1]
    assert "fft** is not part of this comparison" in third
    third = verdict(comparison_of(tmp_path / "b", methods=["fft", "lora"], changes={"fft": {"status": "oom"}}))
    assert any("fft** did not end ok" in point for point in third)


def test_methods_not_better_than_popularity_are_mentioned(tmp_path: Path) -> None:
    cheap = {"epoch_seconds": 1.0, "trainable_params": 1, "peak_memory_bytes": 1}  # popularity has 0.094 here
    changes = {"fft": {"hr@10": 0.09}, "lora": {"hr@10": 0.05, **cheap}}
    comparison = comparison_of(tmp_path / "below", methods=["fft", "lora"], seeds=[0], changes=changes)
    accuracy, scores = verdict(comparison)[0], about(comparison, "lowest TPME")
    assert "is enough" not in " ".join(verdict(comparison))  # nothing is worth taking
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


COSTS = {
    "fft": {"epoch_seconds": 20.0, "peak_memory_bytes": 1000, "trainable_params": 500, "train_seconds": 60.0},
    "lora": {"epoch_seconds": 15.0, "peak_memory_bytes": 900, "trainable_params": 60, "train_seconds": 45.0},
    "frozen": {"epoch_seconds": 5.0, "peak_memory_bytes": 250, "trainable_params": 50, "train_seconds": 15.0},
}


def with_costs(path: Path, accuracy: Mapping[str, float], options: Options = DEFAULT, **arguments: Any) -> Comparison:
    changes = {method: {**COSTS[method], "hr@10": value} for method, value in accuracy.items()}
    return read_comparison(make_run(path, list(changes), [0], changes, **arguments), options=options)


def test_the_cheapest_method_that_is_close_enough_is_recommended(tmp_path: Path) -> None:
    accuracy = {"fft": 0.30, "lora": 0.29, "frozen": 0.28}
    assert about(with_costs(tmp_path / "a", accuracy), "is enough") == (
        "If an HR@10 within 5% of the highest is enough, take **lora**: its HR@10 is 0.010 (3.3%) below that of "
        "**fft** (no paired test). Compared with **fft**, it takes 0.75× the seconds per epoch (25% less) and 0.90× "
        "the peak memory (10% less)."
    )
    wider = about(with_costs(tmp_path / "b", accuracy, Options(within=0.07)), "is enough")
    assert wider.startswith("If an HR@10 within 7% of the highest is enough, take **frozen**")
    narrow = about(with_costs(tmp_path / "c", accuracy, Options(within=0.02)), "is enough")
    assert narrow == (
        "If an HR@10 within 2% of the highest is enough, take **fft**: no method with a lower TPME reaches that."
    )


def test_money_is_the_price_of_the_hours(tmp_path: Path) -> None:
    accuracy = {"fft": 0.30, "lora": 0.29}
    assert "per hour" not in " ".join(verdict(with_costs(tmp_path / "free", accuracy)))
    point = about(with_costs(tmp_path / "paid", accuracy, Options(price_per_hour=720.0)), "per hour")
    assert point.endswith(  # 720 per hour are 0.2 per second
        "At 720 per hour of this device (cpu, Made-up CPU, 2 threads), an epoch costs 3.00 instead of 4.00 and the "
        "whole training, with the cache if there is one, costs 9.00 instead of 12.0."
    )
    alone = about(with_costs(tmp_path / "best", {"fft": 0.30, "lora": 0.2}, Options(price_per_hour=720.0)), "per hour")
    assert "an epoch costs 4.00 and the whole training" in alone
    penny = about(with_costs(tmp_path / "penny", {"fft": 0.30, "lora": 0.2}, Options(price_per_hour=0.01)), "per hour")
    assert "an epoch costs less than 0.001 and" in penny


def test_a_difference_that_the_test_does_not_show_is_called_so(tmp_path: Path) -> None:
    near = with_costs(tmp_path / "near", {"fft": 0.30, "lora": 0.305}, ranks=True)
    tested = near.tested("lora", "fft")
    assert tested is not None
    assert not tested.shown
    assert "no difference shown" in about(near, "is enough")
    far = with_costs(tmp_path / "far", {"fft": 0.30, "lora": 0.15}, Options(within=0.6), ranks=True)
    assert "(Holm-corrected p &lt; 0.001)" in about(far, "is enough")
    missed = with_costs(tmp_path / "missed", {"fft": 0.30, "lora": 0.305}, Options(within=0.0), ranks=True)
    assert "in the mean, though there is no difference shown from **lora**" in about(missed, "is enough")


def test_an_interval_beyond_the_limit_is_given(tmp_path: Path) -> None:
    comparison = with_costs(tmp_path / "run", {"fft": 0.30, "lora": 0.305}, Options(within=0.08), ranks=True)
    tested, best = comparison.tested("lora", "fft"), comparison.value("fft", "hr@10")
    assert tested is not None
    assert best is not None
    assert -tested.low / best > 0.08 > -tested.mean / best
    reach = f"the 95 % interval over users reaches to {-100 * tested.low / best:.0f}%)"
    assert reach in about(comparison, "is enough")


def test_methods_that_never_pay_are_named_with_the_one_that_beats_them(tmp_path: Path) -> None:
    comparison = with_costs(tmp_path / "run", {"fft": 0.30, "lora": 0.24, "frozen": 0.26})
    assert about(comparison, "never pays") == (
        "**lora** never pays here: **frozen** takes no more time, memory and trainable parameters, and its HR@10 is "
        "not lower than that of **lora** (no paired test)."
    )
    tested = with_costs(tmp_path / "far", {"fft": 0.30, "lora": 0.10, "frozen": 0.26}, ranks=True)
    assert about(tested, "never pays").endswith("and its HR@10 is higher than that of **lora**.")
    level = with_costs(tmp_path / "level", {"fft": 0.40, "lora": 0.25, "frozen": 0.26}, ranks=True)
    assert about(level, "never pays").endswith("not lower than that of **lora** (no difference shown).")
    every = with_costs(tmp_path / "every", {"fft": 0.30, "lora": 0.28, "frozen": 0.26})
    assert "never pay" not in " ".join(verdict(every))
    assert about(every, "No method is shown to be beaten")
