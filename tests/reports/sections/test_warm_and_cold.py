"""Tests of the table of warm and cold targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from reports.sections.accuracy import warm_and_cold
from tests.reports.factory import dataset, make_run, write_json
from tests.reports.reading import comparison_of, read_comparison, tables, text_from

PARTS = {"warm_targets": 1200, "warm_hr@10": 0.3, "warm_ndcg@10": 0.16}
PARTS |= {"cold_targets": 300, "cold_hr@10": 0.1, "cold_ndcg@10": 0.05}


def test_floors_methods_and_ceilings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["frozen"], [0], **PARTS)
    known: dict[str, Any] = dataset()
    known["references"]["popularity"] |= {"warm_hr@10": 0.12, "warm_ndcg@10": 0.06, "cold_hr@10": 0.0}
    known["references"]["bayes"] |= {"warm_hr@10": 0.55, "cold_hr@10": 0.4}
    write_json(run / "dataset.json", known)
    text = warm_and_cold(read_comparison(run))
    assert "1,200 of 1,500" in text
    assert "other 300 are cold" in text
    ends = [binomtest(hits, n).proportion_ci(method="wilson") for hits, n in ((360, 1200), (30, 300))]
    warm, cold = (f"{end.low:.3f} to {end.high:.3f}" for end in ends)
    assert tables(text)[0] == [
        ["Method", "HR@10, warm", "NDCG@10, warm", "HR@10, cold", "NDCG@10, cold"],
        ["_popularity_", "_0.120_", "_0.060_", "_0.000_", ""],
        ["frozen", f"0.300 ({warm})", "0.160", f"0.100 ({cold})", "0.050"],
        ["_Bayes ceiling_", "_0.550_", "", "_0.400_", ""],
    ]
    assert "### Warm and cold targets" in text_from(run)


def test_no_hit_among_few_targets_is_not_certain(tmp_path: Path) -> None:
    few = {**PARTS, "cold_targets": 8, "cold_hr@10": 0.0}
    comparison = comparison_of(tmp_path / "run", methods=["frozen"], seeds=[0], **few)
    assert tables(warm_and_cold(comparison))[0][1][3] == "0.000 (0.000 to 0.324)"


def test_several_seeds_have_the_t_interval(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=["frozen"], seeds=[0, 1], **PARTS)
    assert tables(warm_and_cold(comparison))[0][1][1] == "0.300"  # both seeds have the same value


def test_where_there_are_none(tmp_path: Path) -> None:
    none = {"cold_targets": 0, "cold_hr@10": None, "cold_ndcg@10": None}
    all_warm = comparison_of(tmp_path / "warm", methods=["frozen"], seeds=[0], **{**PARTS, **none})
    assert warm_and_cold(all_warm) == "Training has seen all 1,200 test targets."
    unknown = make_run(tmp_path / "old", ["frozen"], [0])
    assert warm_and_cold(read_comparison(unknown)) == ""
    assert "Warm and cold" not in text_from(unknown)
    random = comparison_of(tmp_path / "random", methods=["frozen"], seeds=[0], weights="random", **PARTS)
    assert warm_and_cold(random) == ""
