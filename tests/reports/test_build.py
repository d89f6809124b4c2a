"""Tests of whole reports: files, links, parts, escaping, merging, and files that must not change."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.utils.errors import UserError
from reports.analysis.comparison import split_into_comparisons
from reports.analysis.tables import results, summary
from reports.build import build
from reports.load.run_folders import Run, load_run
from tests.reports.factory import METHODS, dataset, environment, make_run, set_machine, write_json
from tests.reports.reading import PARSER, images, report_of, row_of, tables, text_of

ROOT = Path(__file__).parents[2]
STEMS = {"accuracy-tpme", "costs", "learning", "learning-flops", "memory", "step-times", "phases", "weights"}
FIGURES = {f"{stem}.png" for stem in STEMS}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_everything_is_written_and_nothing_measured_is_touched(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = digests(run)
    build([run], run)
    after = digests(run)
    assert {name: after[name] for name in before} == before
    new = {"results.csv", "summary.csv", "report.md", "report.html", "tables/main.csv", "tables/main.tex"}
    new |= {f"figures/{stem}.{kind}" for stem in STEMS for kind in ("png", "svg")}
    assert set(after) - set(before) == new
    build([run], run)
    assert digests(run) == after


def test_tables_on_disk(plain_report: Path) -> None:
    cells = pd.read_csv(plain_report / "results.csv")
    methods = pd.read_csv(plain_report / "summary.csv")
    assert len(cells) == 16
    assert list(methods["method"]) == list(METHODS)
    assert {"hr@10", "hr@10_low", "hr@10_high", "seeds", "tpme", "status_ok"} <= set(methods.columns)
    assert cells["energy_joules"].isna().all()


def test_parts_of_the_report(plain_report: Path) -> None:
    text = (plain_report / "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^##+ (.*)$", text, flags=re.MULTILINE)
    assert headings == [
        "Verdict", "shop · text+image · shop-absent", "Differences in accuracy", "How far to trust the TPME",
        "PSCP beside TPME", "Theory against measurement", "Figures", "Planned against measured", "Memory by meter",
        "What the hidden-state cache costs", "Computing", "Where the seconds of a cell go", "Budget and methods",
        "Data", "Environment", "Warnings", "Make it again",
    ]  # fmt: skip
    assert {Path(source).name for source in images(text)} == FIGURES
    assert all((plain_report / source).is_file() for source in images(text))
    assert "python run_bench.py run --preset default" in text
    assert "users with fewer than 5 interactions: 12" in text
    assert "Times were measured on a CPU" in text
    assert "1,500 users, 700 items" in text


def test_main_table(tmp_path: Path) -> None:
    changes = {
        "fft": {"hr@10": 0.2, "epoch_seconds": 20.0, "trainable_params": 1000, "peak_memory_bytes": 100 * 2**20},
        "lora": {"hr@10": 0.3, "epoch_seconds": 5.0, "trainable_params": 10, "peak_memory_bytes": 50 * 2**20},
    }
    text = text_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0], changes=changes)
    names = [row[0] for row in tables(text)[0][1:]]
    assert names == ["_random order_", "_popularity_", "lora", "fft", "_Bayes ceiling_", "_oracle_"]
    assert row_of(text, "popularity")[1:] == ["_0.094_", "_0.043_", "", "", "", ""]
    fft, lora = row_of(text, "fft"), row_of(text, "lora")
    assert fft[1] == "0.200 ± 0.020"
    assert lora[1] == "**0.300** ± 0.023 (1.50×)"
    assert fft[3:] == ["20.0", "1,000", "100 MiB", "1.000"]
    assert lora[3:] == ["**5.00** (0.25×)", "**10** (0.01×)", "**50.0 MiB** (0.50×)", "**0.000** (0×)"]


def test_failed_cells_are_listed(tmp_path: Path) -> None:
    broken = {"prefix": {"status": "oom", "error": "out of memory | tried *2 GiB*\nline two"}}
    text = text_of(tmp_path / "run", changes=broken)
    listed = tables(text)[1]
    assert listed[0] == ["Cell that did not end ok", "Status", "Error"]
    assert [row[1] for row in listed[1:]] == ["oom", "oom"]
    assert listed[1][2] == "out of memory | tried \\*2 GiB\\* line two"
    assert row_of(text, "prefix")[1:] == ["_oom_", "", "", "", "", ""]
    methods = [row for row in tables(text)[0][1:] if not row[0].startswith("_")]
    scores = [float(row[-1].split(" ")[0].strip("*")) for row in methods[:-1]]
    assert scores == sorted(scores)
    assert methods[-1][0] == "prefix"  # without a score: last


def test_all_cells_failed(tmp_path: Path) -> None:
    text = report_of(tmp_path / "run", status="failed", error="no luck")
    assert "No cell ended ok" in text
    assert images(text) == []
    assert "not drawn" in text
    assert pd.read_csv(tmp_path / "run" / "results.csv")["hr@10"].isna().all()


def test_one_method_alone(tmp_path: Path) -> None:
    text = report_of(tmp_path / "run", methods=["lora"])
    assert "TPME cannot be computed" in text
    assert len(images(text)) == 6
    assert pd.read_csv(tmp_path / "run" / "summary.csv")["tpme"].isna().all()


def test_any_status_is_listed(tmp_path: Path) -> None:
    ended = ["oom", "oom-host", "failed", "timeout", "hung", "diverged", "interrupted", "not run"]
    changes = {f"m{place}": {"status": status} for place, status in enumerate(ended)}
    text = text_of(tmp_path / "run", methods=["fft", *changes], seeds=[0], changes=changes)
    assert [row[1] for row in tables(text)[1][1:]] == ended
    assert [row_of(text, name)[1] for name in changes] == [f"_{status}_" for status in ended]
    assert f"Not compared, because none of their cells ended ok: **m0** (oom), **m1** ({ended[1]})" in text


def test_settings_of_every_comparison(tmp_path: Path) -> None:
    def settings(text: str) -> str:
        return text.split("## Budget and methods")[1].split("|")[0]

    found = settings(text_of(tmp_path / "run", methods=["fft"], seeds=[0, 3], device="cuda:0", precision="bf16"))
    assert found.strip() == (
        "Settings that are the same for every method:\n\n"
        "- epochs 3, batch size 32\n- dropout 0.1\n- device cuda:0\n- precision bf16\n"
        "- seeds 0, 3"
    )
    apart = {"lora": {"precision": "fp16"}}
    found = settings(text_of(tmp_path / "two", methods=["fft", "lora"], seeds=[0], changes=apart))
    first, second = found.split("Settings that are the same for every method of ")[1:]
    assert first.startswith("shop · text+image · shop-absent · precision fp32:")
    assert "- precision fp32\n" in first
    assert second.startswith("shop · text+image · shop-absent · precision fp16:")
    assert "- precision fp16\n" in second


def test_figures_of_an_older_report_go(tmp_path: Path, plain_report: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(plain_report, run)
    (run / "figures" / "mine.png").write_bytes(b"kept")
    for record in (run / "cells").glob("*/record.json"):
        if not record.parent.name.startswith("lora--"):
            record.unlink()
    build([run], run)
    kept = STEMS - {"accuracy-tpme", "weights"}
    assert {path.name for path in (run / "figures").iterdir()} == {
        "mine.png", *(f"{stem}.{kind}" for stem in kept for kind in ("png", "svg"))
    }  # fmt: skip


@pytest.mark.slow
def test_a_report_of_three_seeds_with_ranks_takes_seconds_and_is_reproducible(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=[0, 1, 2], ranks=True)
    started = time.process_time()
    build([run], run, ks=(5, 10, 20))
    assert time.process_time() - started < 5
    before = digests(run)
    build([run], run, ks=(5, 10, 20))
    assert digests(run) == before
    header = next(line for line in (run / "report.md").read_text().splitlines() if "MRR@20" in line)
    assert header.count("@") == 9


def test_text_from_data_cannot_change_the_report(tmp_path: Path) -> None:
    evil = "=x|y* <img src=x> [a](http://b.c) `d`\n# e"
    run = make_run(
        tmp_path / "run", methods=["fft", evil], seeds=[0, 1], changes={evil: {"error": evil}}, dataset=evil, ranks=True
    )
    write_json(run / "dataset.json", {**dataset(), "name": evil, "dropped": {evil: 3}, "notes": [evil]})
    write_json(run / "environment.json", {**environment(), "cpu": evil, evil: {"deep|er": evil}})
    (run / "matrix.toml").write_text(f"name = {json.dumps(evil)}\n")
    build([run], run)
    text = (run / "report.md").read_text(encoding="utf-8")
    tokens = PARSER.parse(text)
    children = [child for token in tokens for child in token.children or []]
    assert {token.type for token in tokens if "html" in token.type} == set()
    assert {child.type for child in children} <= {
        "text", "image", "em_open", "em_close", "strong_open", "strong_close", "link_open", "link_close", "softbreak",
    }  # fmt: skip
    assert [child.attrs["href"] for child in children if child.type == "link_open"] == ["#warnings"]
    assert all(len(row) == len(table[0]) for table in tables(text) for row in table)
    assert len([token for token in tokens if token.type == "heading_open" and token.tag == "h1"]) == 1
    names = pd.read_csv(run / "summary.csv")["method"]
    assert names.tolist() == ["fft", f"'{evil}"] or names.tolist() == [f"'{evil}", "fft"]


def set_settings(run: Path, budget: dict[str, Any], training: dict[str, Any]) -> Path:
    for path in (run / "cells").glob("*/record.json"):
        write_json(path, {**json.loads(path.read_text()), "budget": budget, "training": training})
    return run


def test_titles_name_differences_alone(tmp_path: Path) -> None:
    budgets = [{"epochs": 3, "seconds": None, "batch_size": 32}, {"epochs": None, "seconds": 2.0, "batch_size": 16}]
    trainings = [{"width": 64, "dropout": 0.1, "lr_schedule": "linear"}, {"width": 64, "dropout": 0.2}]
    runs = [
        load_run(set_settings(make_run(tmp_path / str(n), ["fft"], [0], batch_size=b["batch_size"]), b, t))
        for n, (b, t) in enumerate(zip(budgets, trainings, strict=True))
    ]

    def titles(runs: list[Run]) -> list[str]:
        records = [record for run in runs for record in run.records]
        cells = results(records)
        return [comparison.title for comparison in split_into_comparisons(runs, records, cells, summary(cells))]

    assert titles(runs[:1]) == ["shop · text+image · shop-absent"]
    first, second = titles(runs)
    assert first == "shop · text+image · shop-absent · batch size 32 · epochs 3 · dropout 0.1 · lr schedule linear"
    assert second == "shop · text+image · shop-absent · batch size 16 · seconds 2 · dropout 0.2"
    other = make_run(tmp_path / "other", ["fft"], [0])
    set_machine(other, "Another CPU")
    write_json(other / "dataset.json", {**dataset(), "digest": "89abcdef0123"})
    whole = [load_run(other), load_run(make_run(tmp_path / "whole", ["fft"], [0]))]
    amazon = load_run(make_run(tmp_path / "amazon", ["fft"], [0], dataset="amazon", batch_size=16))
    assert titles([amazon, runs[0]]) == ["amazon · text+image · shop-absent", "shop · text+image · shop-absent"]
    assert titles(whole) == [
        "shop · text+image · shop-absent · data 89abcdef · Another CPU",
        "shop · text+image · shop-absent · data 0123abcd · Made-up CPU",
    ]


@pytest.mark.slow
def test_two_backbone_pairs_have_a_comparison_each(tmp_path: Path) -> None:
    two = ["fft", "lora"]
    first = make_run(tmp_path / "partial", two)
    second = make_run(tmp_path / "full", two, text_model="shop-full", image_model="shop-full")
    out = tmp_path / "both"
    build([first, second], out)
    text = (out / "report.md").read_text()
    assert "## shop · text+image · shop-absent\n" in text
    assert "## shop · text+image · shop-full\n" in text
    assert len(images(text)) == len(set(images(text))) == 17  # eight of each, and one of both together
    assert all((out / source).is_file() for source in images(text))
    assert len(pd.read_csv(out / "results.csv")) == 8
    assert not (first / "report.md").exists()
    assert f"report {first} {second} --out {out}" in text
    build([first, second], out)  # a report may be written over an older one


@pytest.mark.usefixtures("no_figures")
def test_seeds_of_two_runs_are_merged(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), methods=["fft", "lora"], seeds=[seed]) for seed in (0, 1)]
    build(runs, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert table["seeds"].tolist() == [2, 2]
    assert table["hr@10_low"].notna().all()


def test_one_name_for_two_methods_is_refused(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(seed), methods=["fft", "iisan"], seeds=[seed]) for seed in (0, 1)]
    path = next((runs[1] / "cells").glob("iisan--*")) / "record.json"
    record = json.loads(path.read_text())
    record["method"]["options"] = {"bottleneck": 8}
    write_json(path, record)
    with pytest.raises(
        UserError, match=r"method 'iisan' has other options in .*1/cells.*give one of them another name"
    ):
        build(runs, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_figures")
def test_bad_input_leaves_the_old_report(tmp_path: Path) -> None:
    run = tmp_path / "run"
    report_of(run, methods=["fft", "lora"], seeds=[0])
    for path in (run / "cells").glob("*/record.json"):
        path.write_text("{")
    before = digests(run)
    with pytest.raises(UserError, match="malformed JSON"):
        build([run], run)
    assert digests(run) == before


def test_a_damaged_cell_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, broken = (make_run(tmp_path / name, methods=["fft", "lora", "iisan"], seeds=[0]) for name in "ab")
    cell = next((broken / "cells").glob("lora--*"))
    (cell / "record.json").write_text('{"schema": 1, "row": {"cell_id"')
    build([broken], broken)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert err.startswith(f"report: cell {cell.name} is left out: {cell / 'record.json'}: malformed JSON")
    assert f"cell {cell.name} is left out" in (broken / "report.md").read_text().split("## Warnings")[1]
    build([whole], whole)
    assert capsys.readouterr().err == ""
    found, expected = (pd.read_csv(run / "results.csv").set_index("method")["hr@10"] for run in (broken, whole))
    assert found.to_dict() == expected.drop("lora").to_dict()


def test_outputs_that_are_refused(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, methods=["fft", "lora"], seeds=[0]) for name in "ab")
    with pytest.raises(UserError, match="no run folder was given"):
        build([], tmp_path / "out")
    with pytest.raises(UserError, match="given twice"):
        build([first, tmp_path / "b" / ".." / "a"], tmp_path / "out")
    with pytest.raises(UserError, match="holds a run"):
        build([first, second], first)
    with pytest.raises(UserError, match="holds a run"):
        build([first], second)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files that are not part of a report"):
        build([first], full)
    with pytest.raises(UserError, match="not a folder"):
        build([first], full / "thesis.tex")
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "out").exists()


def test_no_deep_learning_is_imported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    code = (
        "import sys; from pathlib import Path; from reports.build import build; run = Path(sys.argv[1]); "
        "build([run], run); print([m for m in ('torch', 'transformers', 'peft', 'tkinter') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
