"""Tests of reading run folders: their values, their notes and the errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.records import run_folder
from bench.records.record import write_record
from bench.utils.errors import UserError
from reports.build import build
from reports.load.run_folders import Run, load_run, merge
from tests.reports.factory import environment, make_run, set_machine, write_json


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    write_json(path, value)


def record_of(run: Path, method: str) -> Path:
    return next((run / "cells").glob(f"{method}--*")) / "record.json"


def test_records_come_in_the_order_of_the_matrix_then_of_seeds(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "run", methods=["lora", "fft", "adapter"], seeds=[10, 9]))
    found = [(record.row["method"], record.row["seed"]) for record in run.records]
    assert found == [(method, seed) for method in ("lora", "fft", "adapter") for seed in (9, 10)]
    assert run.dataset["users"] == 1500
    assert run.notes == ()
    assert {record.machine for record in run.records} == {"Made-up CPU, 2 threads"}


def test_machine_is_that_of_the_cell_where_the_cell_knows_it(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    gpu = {**environment(), "gpu": {"name": "Made-up GPU"}}
    edit(record_of(path, "fft"), lambda value: value.update(environment=gpu))
    assert load_run(path).records[0].machine == "Made-up CPU, Made-up GPU, 2 threads"


def test_a_cell_that_died_early_has_the_machine_of_the_others(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0], changes={"lora": {"status": "oom"}})
    edit(record_of(path, "fft"), lambda value: value["environment"].update(cpu="Seen by the cell"))
    assert {record.machine for record in load_run(path).records} == {"Seen by the cell, 2 threads"}


def test_backbones_and_modalities_come_in_the_order_of_the_matrix(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    pairs = "".join(f'[[backbones]]\ntext = "{name}"\nimage = "{name}"\n' for name in ("zebra", "ant"))
    (path / "matrix.toml").write_text(f'modality = ["text", "text+image"]\n{pairs}[[methods]]\nname = "fft"\n')
    for name in ("ant", "zebra"):
        for modality in ("text+image", "text"):
            image = name if modality == "text+image" else None
            row = {"text_model": name, "image_model": image, "modality": modality}
            make_run(tmp_path / f"{name} {modality}", methods=["fft"], seeds=[0], changes={"fft": row})
            (cell,) = (tmp_path / f"{name} {modality}" / "cells").iterdir()
            cell.rename(path / "cells" / cell.name)
    found = [(record.row["text_model"], record.row["modality"]) for record in load_run(path).records[:4]]
    assert found == [(name, modality) for name in ("zebra", "ant") for modality in ("text", "text+image")]


def test_pairs_that_differ_in_pooling_or_quantisation_alone_come_in_the_order_of_the_matrix(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    pairs = {"ant (mean)": 'text_pooling = "mean"', "ant (bnb-nf4)": 'quantise = "bnb-nf4"', "ant": ""}
    tables = "".join(f'[[backbones]]\ntext = "ant"\n{setting}\n' for setting in pairs.values())
    (path / "matrix.toml").write_text(f'modality = ["text"]\n{tables}[[methods]]\nname = "fft"\n')
    for name in sorted(pairs):
        row = {"text_model": name, "image_model": None, "modality": "text"}
        (cell,) = (make_run(tmp_path / name, methods=["fft"], seeds=[0], changes={"fft": row}) / "cells").iterdir()
        cell.rename(path / "cells" / cell.name)
    assert [record.row["text_model"] for record in load_run(path).records[:3]] == list(pairs)


def test_missing_files_are_noted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    record_of(path, "lora").unlink()
    (path / "dataset.json").unlink()
    (path / "environment.json").unlink()
    run = load_run(path)
    assert [record.row["method"] for record in run.records] == ["fft"]
    assert len(run.notes) == 3
    assert any(note.startswith("cell lora--") for note in run.notes)
    assert any("dataset.json" in note for note in run.notes)


def test_not_a_number_is_read_as_not_measured(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    file = record_of(path, "fft")
    edit(file, lambda value: value["row"].update({"energy_joules": float("nan"), "hr@10": float("inf")}))
    assert "NaN" in file.read_text()
    row = load_run(path).records[0].row
    assert row["energy_joules"] is None
    assert row["hr@10"] is None


def test_folders_that_are_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such run folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a run folder: it has no matrix\.toml"):
        load_run(tmp_path)
    (tmp_path / "matrix.toml").write_text("")
    with pytest.raises(UserError, match=r"no cell has a record\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("matrix.toml", "a = ", "malformed TOML"),
        ("dataset.json", "{", "malformed JSON"),
        ("dataset.json", "[1]", "expected a JSON object"),
        ("environment.json", "", "malformed JSON"),
        ("environment.json", "[" * 5000, "nested too deeply"),
        ("environment.json", '{"a": ' * 60 + "1" + "}" * 60, "nested too deeply"),
        ("environment.json", '{"cores": 1e400}', "1e400 is beyond the range of a number"),
        ("environment.json", '{"cores": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ("dataset.json", '{"users": -1}', "users is not a count"),
        ("dataset.json", '{"items": 1.5}', "items is not a count"),
        ("dataset.json", '{"notes": 3}', "notes is not a list"),
        ("dataset.json", '{"references": {"random": 1}}', r"references\.random is not an object"),
        ("dataset.json", '{"references": {"random": {"hr@10": 7}}}', r"references\.random\.hr@10 is above 1"),
        ("matrix.toml", "a = " + "[" * 5000, "malformed TOML"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, file: str, text: str, words: str) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    (path / file).write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        load_run(path)
    assert str(path / file) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.update(schema=99), "unknown schema 99"),
        (lambda value: value.pop("row"), r"row\.cell_id is missing"),
        (lambda value: value.update(row=[1]), "row is not an object"),
        (lambda value: value["row"].update(status=None), r"row\.status is missing"),
        (lambda value: value["row"].update({"hr@10": "high"}), r"row\.hr@10 is not a number"),
        (lambda value: value["row"].update(steps=True), r"row\.steps is not a number"),
        (lambda value: value["row"].update(device=3), r"row\.device is not a text"),
        (lambda value: value["row"].update(seed=0.5), r"row\.seed is not a whole number"),
        (lambda value: value["row"].update(epochs=-1), r"row\.epochs is below 0"),
        (lambda value: value["row"].update({"hr@10": 1.5}), r"row\.hr@10 is above 1"),
        (lambda value: value.update(memory={"peak_bytes": -5}), r"memory\.peak_bytes is below 0"),
        (lambda value: value.update(steps={"phases": {"data": -0.1}}), r"steps\.phases\.data is below 0"),
        (lambda value: value.update(curve={"epoch": 1}), "curve is not a list"),
        (lambda value: value.update(warnings="hot"), "warnings is not a list"),
    ],
)
def test_malformed_records_are_named(tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    file = record_of(path, "fft")
    edit(file, change)
    with pytest.raises(UserError, match=words) as caught:
        load_run(path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("record.json", "{", "malformed JSON"),
        ("ranks.csv", "user,valid_rank,test_rank\na,0,1\n", "a rank below 1"),
        ("steps.csv", "epoch,step\n1,1\n", "no column seconds"),
    ],
)
def test_a_cell_with_damaged_files_is_left_out(tmp_path: Path, file: str, text: str, words: str) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    cell = record_of(path, "lora").parent
    (cell / file).write_text(text)
    run = load_run(path)
    assert [record.row["method"] for record in run.records] == ["fft"]
    (damage,) = run.damaged
    assert damage.startswith(f"cell {cell.name} is left out: {cell / file}: ")
    assert words in damage


def test_checksums_cover_the_record_and_the_files_of_the_report(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora", "iisan", "frozen"], seeds=[0], ranks=True)
    cells = {file.parent.name.split("--")[0]: file.parent for file in (path / "cells").glob("*/record.json")}
    for cell in cells.values():
        (cell / "trace.json").write_text("{}")
        write_record(cell, json.loads((cell / "record.json").read_text()))
        (cell / "trace.json").unlink()  # a report does not need it
    assert load_run(path).damaged == ()
    edit(cells["lora"] / "record.json", lambda value: value["row"].update({"hr@10": 0.99}))
    with (cells["iisan"] / "ranks.csv").open("a") as file:
        file.write("one more,1,1\n")
    (cells["frozen"] / "steps.csv").unlink()
    run = load_run(path)
    assert [record.row["method"] for record in run.records] == ["fft"]
    assert [text.split(": ", 1)[1] for text in run.damaged] == [
        f"{cells['frozen'] / 'steps.csv'}: is missing",
        f"{cells['iisan'] / 'ranks.csv'}: damaged (checksum mismatch)",
        f"{cells['lora'] / 'record.json'}: damaged (checksum mismatch)",
    ]


def test_a_byte_order_mark_and_half_a_surrogate_pair(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    file = record_of(path, "fft")
    edit(file, lambda value: value.update(warnings=["\ud800 odd"]))
    for name in (file, path / "matrix.toml", path / "dataset.json"):
        name.write_bytes(b"\xef\xbb\xbf" + name.read_bytes())
    assert load_run(path).records[0].warnings == ("? odd",)


def test_binary_record_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft"], seeds=[0])
    record_of(path, "fft").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_run(path)


def two_runs(tmp_path: Path, first: str, second: str) -> tuple[Run, Run]:
    changes = [{"fft": {"status": status}} for status in (first, second)]
    paths = [make_run(tmp_path / name, ["fft"], [0], change) for name, change in zip("ab", changes, strict=True)]
    return load_run(paths[0]), load_run(paths[1])


@pytest.mark.parametrize(
    ("first", "second", "winner"), [("ok", "ok", "b"), ("ok", "oom", "a"), ("oom", "ok", "b"), ("oom", "failed", "b")]
)
def test_a_cell_in_two_runs_counts_once(tmp_path: Path, first: str, second: str, winner: str) -> None:
    runs = two_runs(tmp_path, first, second)
    records, notes = merge(runs)
    assert [record.run.name for record in records] == [winner]
    assert len(notes) == 1
    assert notes[0].endswith(f"/{winner}")


def test_the_same_cell_on_another_machine_is_another_cell(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, ["fft"], [0]) for name in "ab"]
    set_machine(paths[1], "Another CPU")
    records, notes = merge([load_run(path) for path in paths])
    assert len(records) == 2
    assert notes == ()


@pytest.mark.usefixtures("no_figures")
def test_a_file_with_another_checksum_is_named_each_time(tmp_path: Path) -> None:
    """One changed digit in dataset.json leaves it well-formed; the report still says that the checksum differs."""
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    build([run], run)
    run_folder.seal(run)
    assert load_run(run).damaged == ()
    facts = run / "dataset.json"
    facts.write_text(facts.read_text().replace('"users": 1', '"users": 2', 1))
    (run / "report.md").write_text("scribbled on")
    for _ in range(2):
        assert load_run(run).damaged == (f"{facts}: the checksum does not match",)
        build([run], run)
        run_folder.reseal(run)
        assert run_folder.damaged(run) == ["dataset.json"]
        assert "dataset.json: the checksum does not match" in (run / "report.md").read_text().replace("\\", "")
