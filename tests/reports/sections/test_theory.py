"""Tests of the section on theory: ratios by hand, confirmed and other statements, unknown methods."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports.analysis.comparison import Comparison
from reports.sections import theory
from reports.sections.theory import Claim, amounts, claims, section, terms_of
from tests.reports.factory import METHODS, make_run, write_json
from tests.reports.reading import comparison_of, read_comparison, tables


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return comparison_of(tmp_path_factory.mktemp("theory") / "run")


def steps_of(comparison: Comparison, method: str) -> list[pd.DataFrame]:
    return [pd.read_csv(record.steps_path) for record in comparison.records if record.row["method"] == method]


def test_amounts_are_means_over_steps_then_seeds(comparison: Comparison) -> None:
    found = amounts(comparison)
    for method in METHODS:
        for phase in ("backbone", "forward", "backward", "optimizer", "seconds"):
            columns = [steps[phase] for steps in steps_of(comparison, method)]
            if all(column.notna().any() for column in columns):
                mean = np.mean([column.mean() for column in columns])
                assert found[method, phase].mean == pytest.approx(mean)
                assert found[method, phase].replicates.mean() == pytest.approx(mean, rel=0.01)
            else:
                assert (method, phase) not in found
        accounts = [record.memory for record in comparison.records if record.row["method"] == method]
        for part in ("parameters", "activations", "peak_bytes"):
            assert found[method, f"{part} bytes"].mean == np.mean([account[part] for account in accounts])
    assert ("iisan-cached", "backbone") not in found


def test_terms_are_those_of_the_paper(comparison: Comparison) -> None:
    assert {method: terms_of(comparison, method) for method in METHODS} == {
        "fft": ("FP", "BP", "WU", "MW", "A"),
        "adapter": ("FP", "BP", "wu", "MW", "A"),
        "lora": ("FP", "BP", "wu", "MW", "A"),
        "iisan": ("FP", "bp", "wu", "MW", "a"),
        "iisan-cached": ("fp", "bp", "wu", "mw", "a"),
        "frozen": None,
        "bitfit": None,
        "prefix": None,
    }


def test_a_method_goes_by_its_kind_and_not_by_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora", "mine", "iisan"])
    changes = {"lora": "mystery", "mine": "adapter", "iisan": "iisan"}
    for path in (run / "cells").glob("*/record.json"):
        record = json.loads(path.read_text())
        record["method"]["type"] = changes.get(record["row"]["method"], record["method"]["type"])
        record["method"]["options"] = {"cached": True} if record["row"]["method"] == "iisan" else {}
        write_json(path, record)
    comparison = read_comparison(run)
    assert terms_of(comparison, "mine") == theory.TERMS["adapter"]
    assert terms_of(comparison, "lora") is None
    assert terms_of(comparison, "iisan") == theory.TERMS["iisan-cached"]
    text = section(comparison)
    (time, *_) = tables(text)
    rows = {row[0]: row for row in time}
    assert rows["lora"][1] == ""
    assert rows["lora"][-1].endswith("×)")
    assert "no terms for lora." in text


@pytest.mark.parametrize(
    ("relation", "interval", "found"),
    [
        ("=", (0.9, 1.1), "as predicted"),
        ("=", (1.1, 1.2), "not equal"),
        ("=", (1.0, 1.0), "as predicted"),
        (">", (1.1, 1.2), "as predicted"),
        (">", (0.9, 1.1), "no difference shown"),
        (">", (0.8, 0.9), "the other way round"),
        ("<", (0.8, 0.9), "as predicted"),
        ("<", (1.1, 1.2), "the other way round"),
        ("<", (1.0, 1.0), "no difference shown"),
    ],
)
def test_a_claim_is_judged_by_its_interval(relation: str, interval: tuple[float, float], found: str) -> None:
    assert Claim("time", "a", relation, "b", sum(interval) / 2, *interval).found == found


def test_statements_of_the_table(comparison: Comparison) -> None:
    made = claims(comparison, amounts(comparison))
    totals = {(claim.first, claim.relation, claim.second) for claim in made if claim.what == "time of a step"}
    assert totals == {
        ("adapter", "=", "lora"),
        ("fft", ">", "adapter"),
        ("fft", ">", "lora"),
        ("adapter", ">", "iisan"),
        ("lora", ">", "iisan"),
        ("iisan", ">", "iisan-cached"),
    }
    peaks = {(claim.first, claim.relation, claim.second) for claim in made if claim.what == "peak memory"}
    assert peaks == {
        ("fft", "=", "adapter"),
        ("fft", "=", "lora"),
        ("fft", ">", "iisan"),
        ("adapter", ">", "iisan"),
        ("lora", ">", "iisan"),
        ("iisan", ">", "iisan-cached"),
    }
    backward = {claim.first: claim for claim in made if "backward" in claim.what}
    assert {name: claim.relation for name, claim in backward.items()} == {
        "adapter": "=", "lora": "=", "iisan": "<", "iisan-cached": "<",
    }  # fmt: skip
    seconds = {name: np.mean([s["backward"].mean() for s in steps_of(comparison, name)]) for name in ("fft", "iisan")}
    assert backward["iisan"].ratio == pytest.approx(seconds["iisan"] / seconds["fft"])
    assert backward["iisan"].low < backward["iisan"].ratio < backward["iisan"].high < 0.3


def test_the_report_follows_the_measurement(tmp_path: Path) -> None:
    for slow, fast in (("adapter", "iisan"), ("iisan", "adapter")):
        run = make_run(tmp_path / slow, ["fft", "adapter", "iisan"])
        for path in (run / "cells").glob("*/steps.csv"):
            steps = pd.read_csv(path)
            factor = {"fft": 9.0, slow: 5.0, fast: 1.0}[path.parent.name.partition("--")[0]]
            steps["seconds"] *= factor / steps["seconds"].mean()
            steps.to_csv(path, index=False)
        rows = tables(section(read_comparison(run)))[-1]
        listed = [row for row in rows if row[:2] == ["time of a step", "adapter &gt; iisan"]]
        assert [row[2] for row in listed] == ([] if slow == "adapter" else ["the other way round"])


def test_ratios_stand_in_brackets(comparison: Comparison) -> None:
    time, memory, *_ = tables(section(comparison))
    assert time[0] == ["Method", "Theory", "Backbones forward", "Rest forward", "Backward", "Update", "Step"]
    rows = {row[0]: row for row in time}
    assert rows["iisan-cached"][1:3] == ["fp + bp + wu", ""]
    assert "(" not in rows["fft"][-1]
    account = {row[0]: row for row in memory}
    assert account["iisan-cached"][1] == "mw + a"
    assert account["lora"][2].endswith("(0.52×)")  # 1,273,000 and 66,048 against 1,290,000 values more


def test_without_steps_or_accounts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0])
    for path in (run / "cells").glob("*/record.json"):
        write_json(path, {**json.loads(path.read_text()), "memory": None})
    assert len(tables(section(read_comparison(run)))) == 2  # no table of memory
    for path in (run / "cells").glob("*/steps.csv"):
        path.unlink()
    assert section(read_comparison(run)).startswith("Neither the phases of a step nor an account")
    assert section(comparison_of(tmp_path / "failed", status="oom")).startswith("Neither the phases")


def test_no_two_known_methods(tmp_path: Path) -> None:
    text = section(comparison_of(tmp_path / "run", methods=["frozen", "prefix"]))
    assert "Fewer than two methods of the paper's table were measured." in text
    assert "(" not in tables(text)[0][1][2]  # no fft, no ratio
