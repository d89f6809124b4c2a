"""Tests of the section on tuning, which is in reports of tuned runs alone."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from bench.utils.errors import UserError
from reports.analysis.tuning_costs import costs
from reports.build import build
from reports.figures.style import styles_of
from reports.figures.tuning_curve import best_so_far
from reports.load.run_folders import load_run
from reports.sections import tuning
from tests.reports.factory import make_run, write_json
from tests.reports.reading import read_comparison, tables

LORA = {
    "name": "lora",
    "trials": 4,
    "failed": 1,
    "options": {"lr": 0.0012345, "rank": 8},
    "curve": [[2, 0.11], [3, 0.11], [4, 0.19]],
    "timed": 3,
    "seconds": 123.4,
    "data": "0123abcd",
}
FROZEN = {
    "name": "frozen",
    "trials": 4,
    "failed": 0,
    "options": {"lr": 0.5},
    "curve": [[1, 0.1], [2, 0.2], [3, 0.2], [4, 0.2]],
    "timed": 4,
    "seconds": 20.0,
    "metered": 4,
    "joules": 1500.0,
    "data": "ffff",
}


def tuned_run(path: Path, *found: dict[str, Any], options: dict[str, Any] | None = None) -> Path:
    run = make_run(path, ["fft", "lora", "frozen"], [0, 1])
    matrix = tomllib.loads((run / "matrix.toml").read_text())
    (run / "matrix.toml").write_text(tomli_w.dumps({**matrix, "tuning": list(found)}))
    of = {"lora": options or {**LORA["options"], "alpha": 16}, "frozen": FROZEN["options"]}
    for file in (run / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        record["method"]["options"] = of.get(record["row"]["method"], {})
        write_json(file, record)
    return run


def test_the_costs_are_columns(tmp_path: Path) -> None:
    comparison = read_comparison(tuned_run(tmp_path / "run", FROZEN, LORA))
    text = tuning.section(comparison)
    header, *rows = tables(text)[0]
    lora, frozen = (dict(zip(header, row, strict=True)) for row in rows)
    assert (lora["Method"], lora["Trials"], lora["Failed"], lora["Time"], lora["Energy"]) == (
        "lora", "4", "1", "≥ 123 s", "",
    )  # fmt: skip
    assert (lora["Validation HR@10"], lora["Chosen on"], lora["Options"]) == (
        "0.190",
        "this data",
        "lr 0.00123, rank 8",
    )
    assert (frozen["Time"], frozen["Energy"], frozen["Chosen on"]) == ("20.0 s", "1.50 kJ", "other data")
    assert "No search for the options of fft is recorded." in text
    assert "different numbers" not in text
    fewer = {**LORA, "trials": 5}
    assert "different numbers" in tuning.section(read_comparison(tuned_run(tmp_path / "other", FROZEN, fewer)))


def test_the_figure_has_the_points_of_the_curves(tmp_path: Path) -> None:
    comparison = read_comparison(tuned_run(tmp_path / "run", FROZEN, LORA))
    (axes,) = best_so_far(comparison, styles_of(comparison.methods)).axes
    drawn = [line.get_xydata().tolist() for line in axes.lines if line.get_drawstyle() == "steps-post"]
    assert drawn == [LORA["curve"], FROZEN["curve"]]  # in the order of the tables
    assert axes.get_xlim()[1] >= 4


def test_report_and_tables_have_it_and_an_untuned_run_has_not(tmp_path: Path) -> None:
    run = tuned_run(tmp_path / "run", LORA)
    build([run], run)
    text = (run / "report.md").read_text()
    assert "### What tuning cost" in text
    assert "(figures/tuning.png)" in text
    assert (run / "figures" / "tuning.png").is_file()
    results = pd.read_csv(run / "results.csv").set_index("method")
    assert results.loc["lora", "tuning_trials"].tolist() == [4, 4]
    assert results.loc["fft", "tuning_trials"].isna().all()
    assert "tuning_joules" not in results  # no energy is known
    assert pd.read_csv(run / "summary.csv").set_index("method").loc["lora", "tuning_seconds"] == 123.4
    matrix = tomllib.loads((run / "matrix.toml").read_text())
    del matrix["tuning"]
    (run / "matrix.toml").write_text(tomli_w.dumps(matrix))
    build([run], run)
    assert "What tuning cost" not in (run / "report.md").read_text()
    assert not (run / "figures" / "tuning.png").exists()
    assert "tuning_trials" not in pd.read_csv(run / "results.csv")


def test_options_that_were_changed_afterwards_are_not_those_that_were_chosen(tmp_path: Path) -> None:
    path = tuned_run(tmp_path / "run", FROZEN, LORA, options={"lr": 0.1, "rank": 8})
    assert list(costs(read_comparison(path))) == ["frozen"]
    assert any("options of lora are not the ones" in note for note in load_run(path).notes)


@pytest.mark.parametrize(
    "broken", [{"trials": 0}, {"curve": [[1, 1.5]]}, {"seconds": float("inf")}, {"name": 3}, {"more": 1}]
)
def test_impossible_values_are_refused(broken: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"matrix\.toml: tuning: "):
        load_run(tuned_run(tmp_path / "run", {**LORA, **broken}))
