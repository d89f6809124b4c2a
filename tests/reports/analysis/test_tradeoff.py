"""Tests of TPME and PSCP: intervals against a plain bootstrap, set ranges and weights, and disagreements."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.scoring import pscp, tpme
from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.options import Options
from reports.analysis.tables import COST_COLUMNS
from reports.analysis.tradeoff import first_shares, penalised, score_spread, trade_off, turned_pairs
from reports.build import build
from reports.sections import scores
from tests.reports.factory import METHODS, make_run, write_json
from tests.reports.reading import comparison_of, plain_tpme, read_comparison, report_of

FOUR = ["fft", "lora", "adapter", "iisan"]


def plain_bootstrap(comparison: Comparison, draws: int = 1500) -> pd.DataFrame:
    """Bootstrap of the TPME over steps and seeds in plain loops, one draw at a time."""
    draw = np.random.default_rng(11)
    cells = {
        (record.row["method"], record.row["seed"]): (record.row, pd.read_csv(record.steps_path)["seconds"].to_numpy())
        for record in comparison.records
    }
    seeds = sorted({seed for _, seed in cells})
    rows = []
    for _ in range(draws):
        chosen = draw.choice(seeds, len(seeds))
        table = {}
        for method in comparison.methods:
            costs = []
            for seed in chosen:
                row, seconds = cells[method, seed]
                time = row["epoch_seconds"] * draw.choice(seconds, len(seconds)).mean() / seconds.mean()
                costs.append((time, row["trainable_params"], row["peak_memory_bytes"]))
            table[method] = dict(zip(tpme.COLUMNS, np.mean(costs, axis=0), strict=True))
        rows.append(tpme.tpme(table))
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_intervals_are_those_of_a_plain_bootstrap(tmp_path: Path, seeds: list[int]) -> None:
    comparison = comparison_of(tmp_path / "run", methods=FOUR, seeds=seeds)  # its steps are independent
    spread = score_spread(comparison)
    assert spread is not None
    assert spread.seeds == len(seeds)
    found = plain_bootstrap(comparison)
    for method in ("lora", "adapter"):
        low, high = np.quantile(found[method], (0.025, 0.975))
        assert spread.intervals[method] == pytest.approx((low, high), abs=0.2 * (high - low))
        assert spread.intervals[method][0] < trade_off(comparison)[method] < spread.intervals[method][1]
    assert sum(spread.first.values()) == pytest.approx(1.0)


def test_two_methods_without_a_difference(tmp_path: Path) -> None:
    same = {"epoch_seconds": 15.0, "peak_memory_bytes": 300 * 2**20, "trainable_params": 70_000}
    changes: dict[str, dict[str, Any]] = {"lora": same, "adapter": {**same, "epoch_seconds": 15.02}}
    comparison = comparison_of(tmp_path / "run", methods=FOUR, seeds=[0], changes=changes)
    spread = score_spread(comparison)
    assert spread is not None
    assert spread.level_with("lora") == ["adapter"]
    assert spread.level_with("fft") == []
    row = next(line for line in scores.robustness(comparison).splitlines() if line.startswith("| lora |"))
    assert "| adapter |" in row


def test_the_verdict_reports_the_bootstrap(tmp_path: Path) -> None:
    from reports.sections.verdict import verdict

    def lowest(comparison: Comparison) -> str:
        return next(line for line in verdict(comparison) if "has the lowest TPME" in line)

    assert lowest(comparison_of(tmp_path / "a", methods=FOUR)).endswith(
        "; in a bootstrap over steps and seeds it is first in 100% of the draws."
    )
    same = {
        name: {"epoch_seconds": 5.0, "peak_memory_bytes": 2**20, "trainable_params": 5} for name in ("lora", "iisan")
    }
    same["iisan"]["epoch_seconds"] = 5.001
    level = lowest(comparison_of(tmp_path / "b", methods=FOUR, seeds=[0], changes=same))
    assert "in a bootstrap over steps it is first in" in level
    assert level.endswith("of the draws, no difference shown from **iisan**.") or level.endswith(
        "of the draws, no difference shown from **lora**."
    )


def test_without_steps_there_is_no_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FOUR, [0, 1])
    next((run / "cells").glob("lora--*--s1--*")).joinpath("steps.csv").unlink()
    comparison = read_comparison(run)
    assert score_spread(comparison) is None
    assert "A method has no steps (steps.csv)" in scores.robustness(comparison)


@pytest.mark.usefixtures("no_figures")
def test_weights_reach_every_score(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", FOUR, [0, 1])
    build([run], run, weights=(0.0, 1.0, 0.0))
    summary = pd.read_csv(run / "summary.csv").set_index("method")
    cells = pd.read_csv(run / "results.csv")
    low, high = summary["trainable_params"].min(), summary["trainable_params"].max()
    assert summary["tpme"].to_dict() == pytest.approx(((summary["trainable_params"] - low) / (high - low)).to_dict())
    assert cells.groupby("method")["tpme"].mean().to_dict() == pytest.approx(summary["tpme"].to_dict())
    assert "Weights: 0 / 1 / 0" in (run / "report.md").read_text()


def reference_file(path: Path, **rows: tuple[float, float, float]) -> Path:
    lines = [f"{name},{','.join(map(str, row))}" for name, row in rows.items()]
    path.write_text("\n".join(["method,time,params,memory", *lines]))
    return path


def test_a_reference_pins_the_range(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["lora", "iisan"], [0])
    low, high = (0.0, 0.0, 0.0), (100.0, 1e7, 1e10)
    table = reference_file(tmp_path / "ref.csv", lora=low, iisan=high)
    build([run], run, reference=table)
    summary = pd.read_csv(run / "summary.csv").set_index("method")
    for method in ("lora", "iisan"):
        shares = [float(summary[column][method]) / top for column, top in zip(COST_COLUMNS.values(), high, strict=True)]
        assert summary["tpme"][method] == pytest.approx(np.dot(shares, (0.45, 0.10, 0.45)))
    text = (run / "report.md").read_text()
    assert "The minima and maxima are those of ref.csv (lora, iisan)" in text
    wider = reference_file(tmp_path / "wider.csv", lora=low, iisan=high, other=(1e3, 1e9, 1e12))
    build([run], run, reference=wider)
    assert (pd.read_csv(run / "summary.csv")["tpme"] < summary["tpme"].to_numpy()).all()


def test_scores_beyond_a_pinned_range_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["lora", "iisan"], [0])
    build([run], run, reference=reference_file(tmp_path / "r.csv", lora=(1, 1, 1), iisan=(2, 2, 2)))
    assert (run / "figures" / "accuracy-tpme.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": (0.5, 0.5, 0.5)}, "sum to 1.5, not to 1"),
        ({"weights": (1.0,)}, "1 given, expected three"),
        ({"reference": {"lora": (1, 2, 3), "fft": (2, 3, 4)}}, r"ref\.csv: no row for method 'iisan'"),
        ({"reference": {"lora": (1, 2, -3), "iisan": (2, 3, 4)}}, "column memory: -3 is not a finite number"),
        ({"reference": {"lora": (1, 2, 3), "iisan": (2, 2, 4)}}, r"ref\.csv: params is 2 for every method"),
    ],
)
def test_bad_options_leave_no_report(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    run = make_run(tmp_path / "run", ["lora", "iisan"], [0])
    if "reference" in arguments:
        arguments = {"reference": reference_file(tmp_path / "ref.csv", **arguments["reference"])}
    with pytest.raises(UserError, match=words):
        build([run], run, **arguments)
    assert not (run / "report.md").exists()


@pytest.mark.usefixtures("no_figures")
def test_shares_of_the_weights_in_the_report(tmp_path: Path) -> None:
    text = report_of(tmp_path / "run")
    comparison = read_comparison(tmp_path / "run")
    shares = first_shares(comparison)
    assert sum(shares.values()) == pytest.approx(1.0)
    for method, share in shares.items():
        row = next(line for line in text.split("How far to trust")[1].splitlines() if line.startswith(f"| {method} |"))
        assert row.endswith(f"| {share:.1%} |")


def test_pscp_by_hand(tmp_path: Path) -> None:
    changes = {"lora": {"flops_forward": 9_000_000_000_000}, "iisan-cached": {"flops_forward": 5}}
    comparison = comparison_of(tmp_path / "run", changes=changes)
    found = penalised(comparison)
    assert found.yardstick == "frozen"
    base = 4_000_000_000 + METHODS["frozen"][2]
    for method, score in found.scores.items():
        row = comparison.summary.loc[method]
        extra = max(float(row["flops_forward"]) - base, 0) / 1e12
        by_hand = 100 * row["hr@10"] / (1 + row["trainable_params"] / 5e8) / (1 + extra / 10)
        assert score.score == pytest.approx(by_hand / (1 + row["peak_memory_bytes"] / 1e9 / 94))
    assert found.scores["lora"].penalties[1] < 0.6
    assert found.scores["iisan-cached"].penalties[1] == 1.0
    other = dataclasses.replace(comparison, options=Options(penalties=pscp.Penalties(exponents=(0.0, 0.0, 0.0))))
    assert penalised(other).scores["lora"].score == pytest.approx(100 * float(comparison.value("lora", "hr@10") or 0))


def test_yardstick_of_extra_inference(tmp_path: Path) -> None:
    assert penalised(comparison_of(tmp_path / "a", methods=["fft", "lora"])).yardstick == "fft"
    with pytest.raises(UserError, match="neither frozen nor fft ran its backbones"):
        penalised(comparison_of(tmp_path / "b", methods=["iisan", "lora"]))
    run = make_run(tmp_path / "c", ["fft", "frozen", "lora"])
    for path in (run / "cells").glob("frozen--*/record.json"):  # served from the cache: its backbones never ran
        record = json.loads(path.read_text())
        record["method"]["options"] = {"cached": True}
        write_json(path, record)
    assert penalised(read_comparison(run)).yardstick == "fft"
    with pytest.raises(UserError, match="initialised at random"):
        penalised(comparison_of(tmp_path / "d", weights="random"))


def test_where_the_scores_disagree(tmp_path: Path) -> None:
    changes = {
        "fft": {"hr@10": 0.4, "epoch_seconds": 9.0},
        "frozen": {"hr@10": 0.1, "epoch_seconds": 2.0},
        "lora": {"hr@10": 0.3, "epoch_seconds": 8.0},
    }
    comparison = comparison_of(tmp_path / "run", methods=list(changes), seeds=[0], changes=changes)
    pairs = turned_pairs(trade_off(comparison), penalised(comparison).scores)
    assert set(pairs) == {("frozen", "fft"), ("frozen", "lora"), ("lora", "fft")}
    text = scores.beside_pscp(comparison)
    assert "order 3 of 3 pairs of methods differently: frozen is ahead of lora and fft by TPME" in text
    same = {name: {**row, "hr@10": 1 / (10 * row["epoch_seconds"])} for name, row in changes.items()}
    agreed = comparison_of(tmp_path / "same", methods=list(changes), seeds=[0], changes=same)
    assert "order all 3 pairs of methods alike" in scores.beside_pscp(agreed)


def test_disagreement_is_weighed_by_the_paired_test(tmp_path: Path) -> None:
    text = scores.beside_pscp(comparison_of(tmp_path / "run", methods=["fft", "frozen"], seeds=[0], ranks=True))
    assert "order 1 of 1 pairs of methods differently" in text
    assert text.endswith("In 1 of these pairs the paired test shows a difference in HR@10.")


def test_tpme_of_the_comparison_is_that_of_the_table(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run")
    assert trade_off(comparison) == pytest.approx(plain_tpme(comparison.summary.reset_index()))
