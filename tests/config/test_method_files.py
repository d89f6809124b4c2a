"""The example of methods/README.md, added as a user would add it, and other uses of a method file."""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w

from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import MethodFile, parse, read_toml
from bench.config.resolve import Request, resolve
from methods.loading import load_file
from methods.registry import FROM_FILES
from tests.helpers import ROOT, call
from tests.tiny import matrix


def example() -> str:
    """The Python file printed in methods/README.md."""
    readme = (ROOT / "methods" / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## A method of your own")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return block


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "my.py"
    path.write_text(example(), encoding="utf-8")
    return path


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    data = matrix(model_folders, methods=[{"name": "frozen"}], budget={"steps": 2, "batch_size": 16})
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(data))
    return path


def test_the_example_is_short() -> None:
    assert len(example().splitlines()) <= 25


@pytest.mark.slow
def test_the_example_passes_the_check(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check", str(mine), "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in rows} == {"layernorms"}
    assert {row["status"] for row in rows} == {"passed", "skipped"}
    assert all({"check", "asks", "finding", "advice", "seconds"} <= set(row) for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_the_example_runs_beside_a_recipe(
    mine: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ("run", "--config", str(recipe), "--method-file", str(mine), "--out", str(out))
    assert call(*command) == 0
    results = pd.read_csv(out / "results.csv").set_index("method")
    assert results["status"].to_dict() == {"frozen": "ok", "layernorms": "ok"}
    # BERT: one after the embeddings and two per layer; ViT: two per layer and one at the end; 24 wide, 4 layers each.
    record = json.loads(next(out.glob("cells/layernorms--*/record.json")).read_text())
    groups = {group["name"]: group["parameters"] for group in record["method"]["groups"]}
    assert (groups["text"], groups["image"]) == (9 * 2 * 24, 9 * 2 * 24)
    assert record["method"]["adapted"] == {"text": 9, "image": 9}
    assert record["method"]["origin"] == str(mine)
    resolved = tomllib.loads((out / "matrix.toml").read_text())
    assert resolved["method_files"] == [{"path": str(mine), "sha256": record["method"]["sha256"]}]
    assert "layernorms" in (out / "report.md").read_text()

    # The same again goes on, and so does the resolved matrix; another content of the file is refused.
    assert call(*command) == 0
    assert call("run", "--config", str(out / "matrix.toml"), "--out", str(out)) == 0
    capfd.readouterr()
    mine.write_text(example() + "# changed\n")
    assert call(*command) == 2
    assert re.search(r"holds a run of another matrix \(method_files\S*sha256", capfd.readouterr().err)
    assert call("run", "--config", str(out / "matrix.toml"), "--out", str(out)) == 2
    assert "my.py: has changed since the matrix was resolved" in capfd.readouterr().err


def test_a_recipe_lists_files_relative_to_itself(
    mine: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_toml(recipe) | {"method_files": ["my.py"]}
    data["methods"] = [{"name": "mine", "kind": "layernorms", "lr": 0.5}]
    recipe.write_text(tomli_w.dumps(data))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (found,) = resolve(Request(config=recipe)).matrices
    assert [file.path for file in found.method_files or ()] == [str(mine)]
    # What a recipe lists is there to be named; what the command line gives is run.
    assert [(m.name, m.options) for m in found.methods] == [("mine", {"lr": 0.5})]
    (found,) = resolve(Request(config=recipe, method_files=[mine], methods=["layernorms"])).matrices
    assert [m.name for m in found.methods] == ["layernorms"]
    assert len(found.method_files or ()) == 1


@pytest.mark.parametrize("listed", ["my.py", [3], [{"path": 3}], [{"file": "my.py"}], {"path": "my.py"}])
def test_a_list_that_is_none(listed: Any, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe.write_text(tomli_w.dumps({"method_files": listed} | read_toml(recipe)))
    assert call("run", "--config", str(recipe)) == 2
    assert f"{recipe}: method_files: " in capsys.readouterr().err


def own_cell(mine: Path, model_folders: dict[str, Path]) -> Cell:
    loaded = load_file(mine)
    file = {"path": str(loaded.path), "sha256": loaded.sha256}
    data = matrix(model_folders, methods=[{"name": "layernorms"}, {"name": "frozen"}], method_files=[file])
    own, built_in = cells(parse(data, "t"), "cpu")
    assert own.method_file == MethodFile(**file)
    assert built_in.method_file is None
    assert Cell.from_json(own.to_json()) == own
    return own


def test_the_content_of_the_file_is_part_of_what_a_cell_is(mine: Path, model_folders: dict[str, Path]) -> None:
    first = own_cell(mine, model_folders).cell_id
    FROM_FILES.clear()  # as in a process of its own
    moved = mine.rename(mine.with_name("moved.py"))
    assert own_cell(moved, model_folders).cell_id == first
    moved.write_text(example() + "# changed\n")
    assert own_cell(moved, model_folders).cell_id != first


def test_a_cell_whose_file_changed_is_a_row_that_says_so(
    mine: Path, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    cell = dataclasses.replace(own_cell(mine, model_folders), cell_id="c")
    mine.write_text(example() + "# changed\n")
    record = run_cell(cell, tmp_path / "c", lambda _: None)
    assert record["row"]["status"] == "failed"
    assert "my.py: has changed" in record["row"]["error"]


def test_listed_and_planned(mine: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list", "--method-file", str(mine), "--json") == 0
    entry = json.loads(capsys.readouterr().out)["methods"][-1]
    assert entry["name"] == "layernorms"
    assert entry["summary"]
    arguments = ("--config", str(recipe), "--method-file", str(mine), "--methods", "layernorms", "--json")
    assert call("plan", *arguments) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["method"] == "layernorms"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--method-file", "none.py"], "none.py: No such file"),
        (["plan", "--method-file", "none.py"], "none.py: No such file"),
        (["list", "--method-file", "none.py"], "none.py: No such file"),
        (["check", "none.py"], "none.py: No such file"),
        (["check", "wrong.py"], "wrong.py, line 2: "),
        (["run", "--method-file", "wrong.py"], "wrong.py, line 2: "),
        (["check"], "name a method file, or methods with --methods"),
        (["check", "--methods", "lorra"], "unknown method 'lorra'; did you mean 'lora'?"),
        (["check", "--methods", "lora,,"], "an empty name"),
    ],
)
def test_bad_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.py").write_text("x = 1\nimport = 2\n")
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert (out, len(err.strip().splitlines())) == ("", 1)


def test_a_failed_check_is_exit_1_and_says_what_to_do(
    mine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.commands.check import conformance

    less = {m: {**c, "num_hidden_layers": 1} for m, c in conformance.CONFIGURATIONS.items()}
    monkeypatch.setattr(conformance, "CONFIGURATIONS", less)
    mine.write_text(example().replace("nn.LayerNorm", "nn.GroupNorm"))
    assert call("check", str(mine)) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "layernorms"
    (failed,) = [i for i, line in enumerate(lines) if line.split()[:2] == ["failed", "builds"]]
    assert lines[failed + 1].strip().startswith("do: ")


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "iisan", "layers": [0, 99]}, "layers"),
        (
            {"name": "lst-cached", "layers": [5]},
            "method lst-cached: option layers: a backbone of 4 layers has",
        ),
        ({"name": "lora", "rank": 0}, "method lora: option rank: "),
        ({"name": "adapter", "bottleneck": 0}, "method adapter: option bottleneck: "),
        ({"name": "prefix", "positions": 0}, "method prefix: option positions: "),
        ({"name": "iisan", "bottleneck": 0}, "bottleneck"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(
    method: dict[str, Any], said: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe.write_text(tomli_w.dumps(read_toml(recipe) | {"methods": [{"name": "frozen"}, method]}))
    assert call("run", "--config", str(recipe), "--out", str(tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
