"""The command of the check: its exit status, its files, and checks that fail or raise; no run is made."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.gpu import check as program
from tests.gpu import output
from tests.gpu.line import CheckError, Line, at_most, skipped
from tests.gpu.runs import Runs
from tests.reports.factory import make_run


def fine(_: Runs) -> Iterator[Line]:
    yield at_most("fine", 1.0, 2, "%")


def short(_: Runs) -> Iterator[Line]:
    yield at_most("short", 3.0, 2, "%")


def broken(_: Runs) -> Iterator[Line]:
    yield at_most("before", 1.0, 2)
    raise KeyError("no such figure")


def empty(_: Runs) -> Iterator[Line]:
    raise CheckError("the cell ended as oom: CUDA out of memory\nmore lines")
    yield skipped("never", "")


def call(monkeypatch: pytest.MonkeyPatch, out: Path, *checks: program.Check) -> int:
    monkeypatch.setattr(program, "checks", lambda: list(checks))
    return program.main(["--dry", "--out", str(out)])


def test_every_line_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, tmp_path / "out", ("one", fine), ("two", fine)) == 0
    lines = pd.read_csv(tmp_path / "out" / "lines.csv", keep_default_na=False)
    assert (
        lines.to_dict("records")
        == [{"what": "fine", "figure": "1 %", "limit": "≤ 2 %", "status": "ok", "reason": ""}] * 2
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["what", "figure", "limit", "reason"],
        *[["fine", "1", "%", "≤", "2", "%", "ok"]] * 2,
    ]
    assert "2 ok, 0 failed, 0 skipped" in (tmp_path / "out" / "report.md").read_text()


def test_a_figure_that_falls_short_makes_the_exit_status_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert call(monkeypatch, tmp_path / "out", ("one", short), ("two", fine)) == 1
    assert "1 ok, 1 failed, 0 skipped" in (tmp_path / "out" / "report.md").read_text()


def test_a_check_that_raises_is_a_failed_line_and_not_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert call(monkeypatch, tmp_path / "out", ("one", broken), ("two", empty), ("three", fine)) == 1
    lines = pd.read_csv(tmp_path / "out" / "lines.csv", keep_default_na=False)
    assert lines[["what", "status", "reason"]].to_numpy().tolist() == [
        ["before", "ok", ""],
        ["one", "failed", "KeyError: 'no such figure'"],
        ["two", "failed", "the cell ended as oom: CUDA out of memory"],
        ["fine", "ok", ""],
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dry"], "not a new or empty folder"),
        (["--dry", "--out", "new", "--minutes", "0"], "--minutes 0: must be above zero"),
        (["--dry", "--out", "new", "--minutes", "nan"], "--minutes nan: must be above zero"),
        (["--out", "new"], "torch sees 0 CUDA devices"),
    ],
)
def test_bad_usage(
    options: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    Path("full").mkdir()
    Path("full/file").touch()
    assert program.main(["--out", "full", *options]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_the_files_are_few_and_small(tmp_path: Path) -> None:
    names = ["cells", "found", "killed", "cudnn", "out-of-memory", "first-32-users"]
    runs = [make_run(tmp_path / name) for name in names]
    for run in runs:
        rows = [json.loads(path.read_text())["row"] for path in run.glob("cells/*/record.json")]
        pd.DataFrame(rows).to_csv(run / "results.csv", index=False)
        (run / "figures").mkdir()
        for figure in ("memory", "phases", "costs", "gates", "weights"):
            (run / "figures" / f"{figure}.png").write_bytes(bytes(80_000))
    out = tmp_path / "out"
    output.write(out, "Made-up card", [at_most("a", 1, 2)], runs, runs[0], {"torch": "2.13", "driver": None})
    files = sorted(path.name for path in out.iterdir())
    assert len(files) <= 8
    assert files == ["environment.json", "lines.csv", "memory.png", "phases.png", "records.jsonl", "report.md",
                     "results.csv"]  # fmt: skip
    assert sum(path.stat().st_size for path in out.iterdir()) < 2**20
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    rows = pd.read_csv(out / "results.csv")
    assert len(records) == len(rows) == 6 * 16
    assert {(record["run"], record["row"]["cell_id"]) for record in records} == set(
        zip(rows["run"], rows["cell_id"], strict=True)
    )
    report = (out / "report.md").read_text()
    assert report.startswith("# Check of Made-up card\n\n- torch: 2.13\n\n| What |")
    assert report.endswith("![memory](memory.png)\n\n![phases](phases.png)\n")


def test_a_check_without_any_run_writes_its_report(tmp_path: Path) -> None:
    output.write(tmp_path / "out", "a card", [skipped("a", "it raised")], [], tmp_path / "cells", {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["lines.csv", "records.jsonl", "report.md"]
