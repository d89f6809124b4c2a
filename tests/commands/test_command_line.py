"""The command line: what it prints, what it refuses, and what it leaves alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from bench.models.config import CONFIGURATIONS, PRETRAINED
from bench.records import run_folder
from tests.data.small_amazon import write_amazon
from tests.helpers import ROOT, call
from tests.tiny import begun_run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "invalid choice: 'rnu'"),
        (["run", "--methods", "lorra"], "--methods: unknown method 'lorra'; did you mean 'lora'"),
        (["run", "--methods", "lora,lora"], "--methods: lora is given twice"),
        (["run", "--methods", "lora,,fft"], "an empty name"),
        (["plan", "--methods", "lora,,fft"], "an empty name"),
        (["run", "--preset", "defualt"], "--preset defualt: unknown preset; did you mean 'default'"),
        (["run", "--config", "nowhere.toml"], "nowhere.toml: No such file"),
        (["run", "--preset", "smoke", "--config", "x.toml"], "not allowed with"),
        (["run", "--dataset", "shp"], "--dataset: "),
        (["run", "--dataset", "amazon"], "needs --data-dir"),
        (["run", "--dataset", "amazon", "--data-dir", "no/such/dir", "--modality", "text"], "no/such/dir"),
        (["run", "--device", "gpu"], "--device: "),
        (["run", "--device", "cuda:99"], "--device cuda:99: torch sees"),
        (["run", "--precision", "fp8"], "--precision: "),
        (["run", "--epochs", "0"], "--epochs: "),
        (["run", "--epochs", "-1"], "--epochs: "),
        (["run", "--epochs", "99999999"], "--epochs: "),
        (["run", "--epochs", "x"], "argument --epochs: invalid int value"),
        (["run", "--epochs", "1", "--steps", "2"], "not allowed with"),
        (["run", "--seconds", "nan"], "--seconds: "),
        (["run", "--seconds", "0"], "--seconds: "),
        (["run", "--batch-size", "1"], "--batch-size: "),
        (["run", "--save-adapters", "--launcher", "ray"], "--save-adapters: not with --launcher ray"),
        (["run", "--batch-size", "100000000"], "--batch-size: "),
        (["run", "--seeds", "a"], "expected numbers"),
        (["run", "--seeds", "0,0"], "given twice"),
        (["run", "--modality", "audio"], "--modality: "),
        (["run", "--text-model", "no/such"], "--text-model no/such"),
        (["run", "--text-model", "/nope"], "--text-model /nope: no such folder"),
        (["run", "--device", "foo"], "--device: must be auto, cpu, cuda or cuda:N, got 'foo'"),
        (["run", "--out", "a/\x1b[31m", "--seeds", "x\n\x1b[2J"], "expected numbers separated by commas"),
        (["rnu\u202e\x1b[31m"], "invalid choice"),
        (["run", "--image-model", "vit-base"], "--weights random"),
        (["run", "--weights", "none"], "--weights: "),
        (["run", "--quantise", "nf4"], "--quantise: must be 'bnb-nf4' or 'torchao-int8', got 'nf4'"),
        (["report", "no/such/run"], "no/such/run"),
        (["report", "a", "b"], "need --out"),
        (["report", "a", "--within", "100"], "--within: expected a percentage from 0 to below 100, got '100'"),
        (["run", "--within", "-1"], "--within: expected a percentage"),
        (["run", "--within", "nan"], "--within: expected a percentage"),
        (["report", "a", "--price-per-hour", "0"], "--price-per-hour: expected a number above zero, got '0'"),
        (["run", "--price-per-hour", "inf"], "--price-per-hour: expected a number above zero"),
        (["score", "no-table.csv"], "no-table.csv"),
        (["score"], "required: TABLE.csv"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.strip().isprintable()
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("table", "arguments", "said"),
    [
        ("method,time,params,memory\na,1,2,3\n", [], "'a' is alone"),
        ("method,time,params,memory\na,1,2,3\nb,1,5,6\n", [], "time"),
        ("method,time,params,memory\na,1,2,3\nb,nan,5,6\n", [], "time"),
        ("method,time,params,memory\na,1,2,3\nb,x,5,6\n", [], "line 3"),
        ("method,time,params,memory\na,1,2,3\nb,2,5,-6\n", [], "memory"),
        ("method,time,parms,memory\na,1,2,3\n", [], "params"),
        ("", [], "empty"),
        ("method,time,params,memory\na,1,2,3\nb,2,5,6\n", ["--weights", "0.5,0.5,0.5"], "sum to 1"),
        ("method,time,params,memory\na,1,2,3\nb,2,5,6\n", ["--weights", "1"], "weights"),
    ],
)
def test_score_refuses(
    table: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(table)
    assert call("score", str(path), *arguments) == 2
    assert said in capsys.readouterr().err


def test_score_prints_one_json_value(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("method,time,params,memory\na,1,10,3\nb,3,5,9\nc,2,7,6\n")
    assert call("score", str(path), "--json") == 0
    rows = {row["method"]: row["tpme"] for row in json.loads(capsys.readouterr().out)}
    assert rows == pytest.approx({"a": 0.1, "b": 0.9, "c": 0.5 * 0.9 + 0.1 * 0.4})


def test_list_names_everything_and_imports_no_torch() -> None:
    code = "import sys, run_bench; run_bench.main(['list', '--json']); assert 'torch' not in sys.modules, 'torch'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    parts = json.loads(done.stdout)
    names = {kind: {entry["name"] for entry in entries} for kind, entries in parts.items()}
    assert {"fft", "frozen", "bitfit", "adapter", "lora", "prefix", "iisan", "iisan-cached"} <= names["methods"]
    assert {"default", "smoke", "paper", "amazon", "coverage"} <= names["presets"]
    assert {"shop", "amazon", "table", "recbole", "microlens"} == names["datasets"]
    assert {*PRETRAINED, *CONFIGURATIONS} == names["backbones"]
    assert all(entry["summary"] for entries in parts.values() for entry in entries)


@pytest.mark.parametrize(
    "command", ["", "run", "tune", "report", "score", "compare", "plan", "doctor", "cache", "list"]
)
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*([command] if command else []), "--help") == 0
    assert "example: python run_bench.py" in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_and_what_it_leaves(
    recipe: Path, finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished_run, out)
    results = pd.read_csv(out / "results.csv")
    assert list(results["method"]) == ["frozen", "iisan-cached"]
    assert set(results["status"]) == {"ok"}
    assert results["tpme"].between(0, 1).all()
    for name in ("matrix.toml", "environment.json", "dataset.json", "summary.csv", "report.md"):
        assert (out / name).stat().st_size > 0
    assert any((out / "figures").glob("*.png"))
    facts = json.loads((out / "dataset.json").read_text())
    assert (facts["users"], facts["items"]) == (40, 60)
    assert set(facts["references"]) == {"random", "popularity", "bayes", "oracle"}

    # Again: everything is kept. Another matrix: refused, nothing touched.
    stamps = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/record.json")}
    assert call("run", "--config", str(recipe), "--out", str(out), "--within", "7%", "--price-per-hour", "2.5") == 0
    assert "kept from an earlier run" in capfd.readouterr().err
    assert f"report {out} --within 7 --price-per-hour 2.5\n" in (out / "report.md").read_text()
    assert call("run", "--config", str(recipe), "--steps", "3", "--out", str(out)) == 2
    assert "another matrix (budget.steps: there 2, now 3)" in capfd.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.glob("cells/*/record.json")} == stamps

    # A trace changes nothing of what is measured.
    assert call("run", "--config", str(recipe), "--profile", "1", "--out", str(out)) == 0
    assert call("run", "--config", str(recipe), "--fresh", "--out", str(out)) == 2
    assert "--fresh" in capfd.readouterr().err

    # Any program that knows the format of the sums finds nothing amiss, and every file there.
    check = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    assert "cells/" in check.stdout
    assert "report.md: OK" in check.stdout

    # Rendered again from records alone.
    before = (out / "results.csv").read_bytes()
    (out / "results.csv").unlink()
    assert call("report", str(out)) == 0
    assert (out / "results.csv").read_bytes() == before


@pytest.mark.usefixtures("cells_in_this_process", "no_figures")
def test_a_cell_that_fails_is_a_row_and_the_others_go_on(
    recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(recipe.read_text().replace("bottleneck = 4", "lr_head = 1e30"))
    out = tmp_path / "run"
    assert call("run", "--config", str(recipe), "--out", str(out)) == 1
    results = pd.read_csv(out / "results.csv").set_index("method")
    assert results["status"].to_dict() == {"frozen": "ok", "iisan-cached": "failed"}
    assert "loss" in results.loc["iisan-cached", "error"]
    assert "iisan-cached" in (out / "report.md").read_text()

    # A failure is a result: it is kept, until it is to be tried again.
    stamp = next(out.glob("cells/iisan-cached*/record.json")).stat().st_mtime_ns
    capfd.readouterr()
    assert call("run", "--config", str(recipe), "--out", str(out)) == 1
    assert "kept from an earlier run: failed" in capfd.readouterr().err
    assert next(out.glob("cells/iisan-cached*/record.json")).stat().st_mtime_ns == stamp
    assert call("run", "--config", str(recipe), "--out", str(out), "--retry-failed") == 1
    assert next(out.glob("cells/iisan-cached*/record.json")).stat().st_mtime_ns > stamp


def test_two_processes_in_one_folder(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with run_folder.locked(out):
        assert call("run", "--config", str(recipe), "--out", str(out)) == 2
    assert "another process is running in this folder" in capfd.readouterr().err


@pytest.mark.slow
def test_a_signal_leaves_the_tables_and_no_process(
    recipe: Path, finished_run: Path, tmp_path: Path, cells_in_this_process: None
) -> None:
    """The first cell is done by then, the second is stopped, and a run of the same matrix finishes it."""
    out = begun_run(finished_run, tmp_path / "run")
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", "--config", str(recipe), "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/2]"):
            break
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.01)
    child = children[0]
    process.send_signal(signal.SIGTERM)
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    rest = process.stderr.read()
    assert process.wait() == 1
    assert "Traceback" not in rest
    results = pd.read_csv(out / "results.csv").set_index("method")["status"].to_dict()
    assert results == {"frozen": "ok", "iisan-cached": "interrupted"}
    stamp = next(out.glob("cells/frozen*/record.json")).stat().st_mtime_ns
    assert call("run", "--config", str(recipe), "--out", str(out)) == 0
    assert next(out.glob("cells/frozen*/record.json")).stat().st_mtime_ns == stamp


def test_an_output_folder_that_holds_something_else(recipe: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "photos"
    out.mkdir()
    (out / "cat.jpg").write_text("cat")
    assert call("run", "--config", str(recipe), "--out", str(out)) == 2
    assert "is neither empty nor a run folder" in capsys.readouterr().err
    assert [p.name for p in out.iterdir()] == ["cat.jpg"]


def test_unknown_option_of_a_method(recipe: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    recipe.write_text(recipe.read_text().replace("bottleneck", "botleneck"))
    assert call("run", "--config", str(recipe), "--out", str(tmp_path / "r")) == 2
    assert "method iisan-cached: unknown option 'botleneck'; did you mean 'bottleneck'" in capsys.readouterr().err


def test_a_catalogue_in_which_every_item_is_among_the_first_ten(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    def arguments(items: int) -> list[str]:
        titles = {f"B{i:03}": f"cotton shirt {i}" for i in range(items)}
        users = {f"U{u}": [f"B{(u + k) % items:03}" for k in range(6)] for u in range(30)}
        folder = write_amazon(tmp_path / f"data{items}", titles, users)
        return ["--dataset", "amazon", "--data-dir", str(folder), "--modality", "text", "--text-model", "shop-absent"]

    assert call("run", *arguments(10), "--out", str(tmp_path / "r")) == 2
    assert "10 items are left: HR@10 and NDCG@10 need a catalogue of at least 11" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert call("plan", *arguments(10), "--shapes", "data") == 2
    assert "at least 11" in capsys.readouterr().err


def test_built_in_tokenizer_on_foreign_titles_is_an_error(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    titles = {f"B{i:03}": f"hydraulic manometer gauge number {i}" for i in range(60)}
    users = {f"U{u}": [f"B{(u * 7 + k * 3) % 60:03}" for k in range(6)] for u in range(30)}
    folder = write_amazon(tmp_path / "data", titles, users)
    arguments = ["run", "--dataset", "amazon", "--data-dir", str(folder), "--modality", "text"]
    arguments += ["--text-model", "shop-absent", "--methods", "frozen", "--out", str(tmp_path / "r")]
    assert call(*arguments) == 2
    assert "does not know" in capsys.readouterr().err
    # Images asked for and absent.
    arguments[arguments.index("text")] = "text+image"
    assert call(*arguments, "--image-model", "shop-absent") == 2
    assert "images" in capsys.readouterr().err


@pytest.mark.slow
def test_no_traceback_from_a_real_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "run_bench.py"), "run", "--text-model", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no config.json" in done.stderr
