"""Tests of accuracy over users against pandas, the sign test and ranks made by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats as reference

from bench.utils.errors import UserError
from reports.analysis import resampling
from reports.analysis.comparison import Comparison
from reports.analysis.paired import Paired
from reports.sections import accuracy
from reports.sections.verdict import verdict
from tests.reports.factory import make_run
from tests.reports.reading import comparison_of, read_comparison

METHODS = ["fft", "frozen", "lora"]


def kept_ranks(comparison: Comparison) -> dict[str, dict[int, np.ndarray]]:
    found: dict[str, dict[int, np.ndarray]] = {}
    for record in comparison.records:
        column = pd.read_csv(record.ranks_path)["test_rank"].to_numpy()
        found.setdefault(record.row["method"], {})[record.row["seed"]] = column
    return found


def paired_of(comparison: Comparison) -> Paired:
    assert comparison.paired is not None
    return comparison.paired


def with_ranks(path: Path, hits: dict[str, list[list[int]]]) -> Comparison:
    """A comparison of methods whose seeds hit (1) or miss (0) each of a few users."""
    seeds = range(len(next(iter(hits.values()))))
    run = make_run(path, list(hits), list(seeds), ranks=True)
    for method, by_seed in hits.items():
        for seed, values in enumerate(by_seed):
            (folder,) = (run / "cells").glob(f"{method}--*--s{seed}--*")
            rows = [f"u{place},1,{1 if hit else 50}" for place, hit in enumerate(values)]
            (folder / "ranks.csv").write_text("\n".join(["user,valid_rank,test_rank", *rows]))
    return read_comparison(run)


def test_estimates_are_means_over_seeds_and_users(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=METHODS, seeds=[0, 1, 2], ranks=True)
    for method, seeds in kept_ranks(comparison).items():
        hits = np.mean([ranks <= 10 for ranks in seeds.values()], axis=0)
        found = paired_of(comparison).estimates[method, "hr@10"]
        assert found.mean == pytest.approx(hits.mean()) == pytest.approx(comparison.value(method, "hr@10"))
        half = 1.96 * hits.std() / math.sqrt(len(hits))
        assert (found.low, found.high) == pytest.approx((hits.mean() - half, hits.mean() + half), abs=0.1 * half)


def test_differences_are_paired_by_user(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=METHODS, seeds=[0], ranks=True)
    kept = {method: (seeds[0] <= 10).astype(float) for method, seeds in kept_ranks(comparison).items()}
    found = {(one.first, one.second): one for one in paired_of(comparison).differences if one.metric == "hr@10"}
    assert list(found) == list(itertools.combinations(METHODS, 2))
    for (first, second), difference in found.items():
        gaps = kept[first] - kept[second]
        assert difference.mean == pytest.approx(gaps.mean())
        half = 1.96 * gaps.std() / math.sqrt(len(gaps))
        assert (difference.low, difference.high) == pytest.approx(
            (gaps.mean() - half, gaps.mean() + half), abs=0.1 * half
        )
        exact = reference.binomtest(int((gaps > 0).sum()), int((gaps != 0).sum())).pvalue
        assert difference.p == pytest.approx(exact, abs=0.01)
    for metric in ("hr@10", "ndcg@10"):
        family = [one for one in paired_of(comparison).differences if one.metric == metric]
        assert [one.p_holm for one in family] == pytest.approx(resampling.holm(np.array([one.p for one in family])))


def test_pairing_finds_differences_that_intervals_do_not(tmp_path: Path) -> None:
    users = 400
    easy = [int(place < 200) for place in range(users)]
    better = [int(place < 216) for place in range(users)]
    comparison = with_ranks(tmp_path / "run", {"fft": [easy], "lora": [better]})
    difference = comparison.tested("lora", "fft")
    assert difference is not None
    assert difference.shown
    fft, lora = (paired_of(comparison).estimates[method, "hr@10"] for method in ("fft", "lora"))
    assert fft.high > lora.low


def test_seeds_are_averaged_per_user_and_counted(tmp_path: Path) -> None:
    hits = {"fft": [[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0]], "lora": [[0, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 0]]}
    comparison = with_ranks(tmp_path / "run", hits)
    difference = comparison.tested("fft", "lora")
    assert difference is not None
    assert difference.mean == pytest.approx((1 - 2 + 2) / 12)
    assert (difference.agreeing, difference.seeds) == (2, 3)
    turned = comparison.tested("lora", "fft")
    assert turned is not None
    assert (turned.mean, turned.low, turned.high) == (-difference.mean, -difference.high, -difference.low)
    # Only the first user differs in the mean over seeds, by 1/3; the test can show no difference from one user.
    assert difference.p == 1.0


def test_only_common_seeds_are_paired(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0, 1], ranks=True)
    next((run / "cells").glob("lora--*--s1--*")).joinpath("ranks.csv").unlink()
    comparison = read_comparison(run)
    paired = paired_of(comparison)
    assert paired.seeds == {"fft": (0, 1), "lora": (0,)}
    kept = pd.read_csv(next((run / "cells").glob("fft--*--s0--*")) / "ranks.csv")["test_rank"] <= 10
    other = pd.read_csv(next((run / "cells").glob("lora--*--s0--*")) / "ranks.csv")["test_rank"] <= 10
    difference = comparison.tested("fft", "lora")
    assert difference is not None
    assert difference.mean == pytest.approx(kept.mean() - other.mean())
    assert difference.seeds == 1


def test_ranks_of_other_users_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0], ranks=True)
    path = next((run / "cells").glob("lora--*")) / "ranks.csv"
    path.write_text(path.read_text().replace("user00000", "somebody"))
    with pytest.raises(UserError, match=r"lora.*ranks\.csv: lists other users than .*fft"):
        read_comparison(run).paired  # noqa: B018


def test_without_ranks_or_without_meaning_there_is_nothing(tmp_path: Path) -> None:
    bare = comparison_of(tmp_path / "bare", methods=METHODS)
    assert bare.paired is None
    assert "No cell kept the ranks" in accuracy.section(bare)
    drawn = comparison_of(tmp_path / "random", methods=METHODS, weights="random", ranks=True)
    assert drawn.paired is None
    assert "accuracy has no meaning" in accuracy.section(drawn)


def test_one_seed_has_bootstrap_intervals(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=METHODS, seeds=[0], ranks=True)
    for column in ("hr@10", "ndcg@10"):
        spread, estimate = comparison.spread("fft", column), paired_of(comparison).estimates["fft", column]
        assert spread is not None
        assert (spread.low, spread.high, spread.source) == (estimate.low, estimate.high, "bootstrap")
    assert "over 1,500 users)" in verdict(comparison)[0]


def test_the_verdict_goes_by_the_paired_test(tmp_path: Path) -> None:
    far = comparison_of(tmp_path / "far", methods=["fft", "frozen", "bitfit"], seeds=[0], ranks=True)
    assert verdict(far)[0].endswith("tells it apart from every other method (Holm-corrected p at most 0.001).") or (
        "Holm-corrected p &lt; 0.001" in verdict(far)[0]
    )
    against_fft = [line for line in verdict(far) if line.startswith("Compared with **fft**")]
    assert "Holm-corrected p" in against_fft[0]
    alike = {"fft": {"hr@10": 0.25}, "lora": {"hr@10": 0.25}, "frozen": {"hr@10": 0.12}}
    near = comparison_of(tmp_path / "near", methods=list(alike), seeds=[0], changes=alike, ranks=True)
    assert "a paired test over users does not tell it apart from" in verdict(near)[0]
    assert "frozen" not in verdict(near)[0].split("paired test")[1]


def test_overlap_over_seeds_is_mentioned(tmp_path: Path) -> None:
    users = 300
    hits: dict[str, Any] = {
        "fft": [[int(place < count) for place in range(users)] for count in (150, 90)],
        "lora": [[int(place < count) for place in range(users)] for count in (100, 80)],
    }
    comparison = with_ranks(tmp_path / "run", hits)
    changes = {("fft", 0): 0.5, ("fft", 1): 0.3, ("lora", 0): 1 / 3, ("lora", 1): 80 / 300}
    for record in comparison.records:
        record.row["hr@10"] = changes[record.row["method"], record.row["seed"]]  # type: ignore[index]
    first = verdict(read_comparison(comparison.records[0].run, comparison.records))[0]
    assert "tells it apart from every other method" in first
    assert "The intervals over seeds overlap with **lora**, so other seeds may give another order." in first


def test_section_shows_intervals_pairs_and_all_differences(tmp_path: Path) -> None:
    text = accuracy.section(comparison_of(tmp_path / "run", methods=METHODS, seeds=[0, 1], ranks=True))
    assert "averaged over the seeds, then users are drawn with replacement" in text
    assert "Holm's correction is over all 3 pairs" in text
    assert text.count("| frozen − ") == 1
    assert "**differs**" in text


@pytest.mark.parametrize(
    ("value", "words"), [(0.0123, "+0.012"), (-0.0123, "−0.012"), (0.0001, "0.000"), (-0.0, "0.000")]
)
def test_signed(value: float, words: str) -> None:
    assert accuracy.signed(value) == words
