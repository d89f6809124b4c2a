"""Tests of bad input to the report commands: exit status 2, one line that names the error, and no output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers import call
from tests.reports.factory import add_ranks, make_run

HEADER = "method,time,params,memory\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with three runs and some tables."""
    monkeypatch.chdir(tmp_path)
    for name, method, seed in (("a", "fft", 0), ("b", "fft", 1), ("c", "lora", 0)):
        make_run(tmp_path / name, [method], [seed])
    for path in (make_run(tmp_path / "broken", ["fft", "lora"], [0]) / "cells").glob("*/record.json"):
        path.write_text("{")
    (tmp_path / "good.csv").write_text(f"{HEADER}a,1,2,3\nb,2,5,6\n")
    (tmp_path / "negative.csv").write_text(f"{HEADER}a,1,2,3\nb,2,5,-6\n")
    (tmp_path / "other.csv").write_text(f"{HEADER}fft,1,2,3\nb,2,5,6\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("plan --card abacus", "--card abacus: unknown card; known: a10, "),
        ("plan --fit 0", "--fit 0: "),
        ("score good.csv --reference other.csv", "other.csv: no row for method 'a'"),
        ("report a c --out out --reference other.csv", "other.csv: no row for method 'lora'"),
        ("score good.csv --weights 0.5,0.5,0.5", "sum to 1.5, not to 1"),
        ("report a --out out --weights 0.5,0.5,0.5", "sum to 1.5, not to 1"),
        ("report a --out out --weights 1.5,-0.25,-0.25", "the weight of params is -0.25"),
        ("score negative.csv", "negative.csv: line 3, column memory: -6 is not a finite number"),
        ("report a --out out --reference negative.csv", "negative.csv: line 3, column memory: -6"),
        ("compare a b", "a and b have no cell in common: seed 0 in the first, 1 in the second"),
        ("compare a c", "a and c have no cell in common: method fft in the first, lora in the second"),
        ("compare a a --fail-if speed>1", "--fail-if 'speed>1': unknown metric 'speed'"),
        ("compare a broken", "broken: no record can be read: "),
        ("report broken --out out", "broken: no record can be read: "),
        ("report a nowhere --out out", "nowhere: no such run folder"),
        ("report a --out good.csv", "good.csv: not a folder"),
        ("report a --out good.csv/out", "good.csv/out: cannot be written: Not a directory"),
        ("report a --k 900 --out out", "--k 900: "),
        ("report a --pscp-constants 0,1,1 --out out", "PSCP constants: the constant of params is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert call(*arguments.split()) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert sorted(folder.rglob("*")) == before


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_cell_does_not_change_the_exit_status(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(folder / "run", ["fft", "lora"], [0])
    next((run / "cells").glob("lora--*/record.json")).write_text("{")
    assert call("report", "run", "--out", "out") == 0
    damage, where = capsys.readouterr().err.splitlines()
    assert damage.startswith("report: cell lora--")
    assert where == "report: out/report.md"


@pytest.mark.usefixtures("no_figures")
def test_the_report_says_what_an_hour_buys_and_how_it_was_made(folder: Path) -> None:
    options = ["--within", "50", "--price-per-hour", "3600", "--k", "5,10"]  # 1 per second
    run = make_run(folder / "run", ["fft", "lora"], [0], {"lora": {"epoch_seconds": 12.5, "train_seconds": 37.5}})
    for path in run.glob("cells/*/record.json"):
        add_ranks(path.parent, json.loads(path.read_text()))
    assert call("report", "run", "--out", "out", *options) == 0
    text = (folder / "out" / "report.md").read_text()
    assert "If an HR@10 within 50% of the highest is enough, take **lora**" in text
    assert "an epoch costs 12.5" in text
    assert "costs 37.5" in text
    assert "report run --out out --k 5,10 --within 50 --price-per-hour 3600\n" in text


@pytest.mark.usefixtures("no_figures")
def test_a_folder_of_runs_is_reported_as_they_are(folder: Path) -> None:
    both = folder / "both"
    both.mkdir()
    for name in ("a", "c"):
        (folder / name).rename(both / name)
    (both / "begun").mkdir()
    (both / "begun" / "matrix.toml").write_text('name = "begun"')  # no cell has ended yet
    assert call("report", "both") == 0
    rows = (both / "results.csv").read_text().splitlines()
    assert {row.split(",")[1] for row in rows[1:]} == {"fft", "lora"}
    assert call("report", "both") == 0
