"""Recipes that go on from another, and recipes over several datasets."""

from pathlib import Path
from typing import Any

import pytest

import run_bench
from bench.cell.run_cell import run_cell
from bench.commands.arguments import request_of
from bench.config.cells import Cell
from bench.config.matrix import parse, read_preset
from bench.config.recipes import expand_datasets, extended
from bench.config.resolve import Request, resolve
from bench.records.record import cell_folder
from bench.utils.errors import UserError
from tests.tiny import matrix

BASE: dict[str, Any] = {
    "name": "base",
    "seeds": [4],
    "budget": {"steps": 9, "batch_size": 8},
    "training": {"dropout": 0.3, "width": 8},
    "methods": [{"name": "lora", "rank": 3}, {"name": "quick", "kind": "iisan-cached", "bottleneck": 5}],
}


def extend(own: dict[str, Any], in_files: bool = False) -> dict[str, Any]:
    asked: list[str] = []

    def read(name: str) -> dict[str, Any]:
        asked.append(name)
        return {key: value.copy() if isinstance(value, dict) else value for key, value in BASE.items()}

    whole = extended({"extends": "default", **own}, "t", read, in_files)
    assert asked == ["amazon" if in_files else "default"]
    return whole


def test_what_is_left_out_comes_from_the_other() -> None:
    assert extend({"name": "mine"}) == {**BASE, "name": "mine"}
    assert extend({"name": "mine"}, in_files=True) == {**BASE, "name": "mine"}
    whole = extend({"seeds": [1, 2], "training": {"width": 16}, "budget": {"epochs": 2}})
    assert whole["seeds"] == [1, 2]
    assert whole["training"] == {"dropout": 0.3, "width": 16}
    assert whole["budget"] == {"epochs": 2, "batch_size": 8}


def test_methods_take_the_options_of_their_kind() -> None:
    own = [{"name": "all", "kind": "iisan-cached", "layers": "all"}, {"name": "lora", "rank": 4}, {"name": "fft"}]
    assert extend({"methods": own})["methods"] == [
        {"name": "all", "kind": "iisan-cached", "bottleneck": 5, "layers": "all"},
        {"name": "lora", "rank": 4},
        {"name": "fft"},
    ]


@pytest.mark.parametrize("name", [3, ["default"], "defualt"])
def test_what_cannot_be_extended(name: Any) -> None:
    with pytest.raises(UserError, match=r"defualt|extends"):
        extended({"extends": name}, "mine.toml", read_preset, False)


def test_a_recipe_over_datasets() -> None:
    data = {**BASE, "dataset": {"users": 50}, "datasets": [{"seed": 2}, {"seed": 3}, {"seed": 3, "users": 60}]}
    found = expand_datasets(data, "t")
    assert [one["dataset"] for one in found] == [
        {"users": 50, "seed": 2},
        {"users": 50, "seed": 3},
        {"users": 60, "seed": 3},
    ]
    assert [one["name"] for one in found] == ["base-shop-2", "base-shop-3", "base-shop-3.2"]
    assert expand_datasets(BASE, "t") == [BASE]
    folders = [{"data_dir": "a/Books"}, {"data_dir": "b/Books"}, {"data_dir": "c d"}]
    found = expand_datasets({**BASE, "dataset": {"name": "amazon"}, "datasets": folders}, "t")
    assert [one["name"] for one in found] == ["base-Books", "base-Books.2", "base-c_d"]
    assert len({parse(one, "t").name for one in found}) == 3


@pytest.mark.parametrize("datasets", [[], 3, [1], {"seed": 1}, [{"seed": 1}] * 101])
def test_datasets_that_are_none(datasets: Any) -> None:
    with pytest.raises(UserError, match=r"mine\.toml: datasets"):
        expand_datasets({**BASE, "datasets": datasets}, "mine.toml")


def given(*arguments: str) -> Request:
    return request_of(run_bench.build_parser().parse_args(["run", *arguments]))


def test_several_folders_are_several_datasets() -> None:
    several = resolve(given("--preset", "paper-datasets", "--dataset", "amazon", "--data-dir", "a", "--data-dir", "b"))
    assert [one.dataset.data_dir for one in several.matrices] == ["a", "b"]
    assert [one.name for one in several.matrices] == ["paper-datasets-a", "paper-datasets-b"]
    (one,) = resolve(given("--preset", "gates", "--dataset", "amazon", "--data-dir", "a")).matrices
    assert (one.name, one.dataset.data_dir) == ("gates", "a")
    # The paper's learning rates and real encoders, not those of the shop.
    assert one.backbones[0].text == "google-bert/bert-base-uncased"
    assert "lr" not in one.methods[0].options
    (one,) = resolve(given("--preset", "paper-datasets", "--shop-seed", "9")).matrices
    assert one.dataset.seed == 9
    assert len(resolve(given("--preset", "paper-datasets")).matrices) == 6


@pytest.mark.usefixtures("no_plan", "no_figures")
def test_a_run_over_datasets_leaves_a_run_each_and_one_report(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomli_w

    def in_this_process(cells: list[Cell], run: Path, *_: Any, **__: Any) -> None:
        for cell in cells:
            cell_folder(run, cell.cell_id).mkdir(parents=True, exist_ok=True)
            run_cell(cell, cell_folder(run, cell.cell_id), lambda _: None)

    monkeypatch.setattr("bench.commands.run.run_local", in_this_process)
    monkeypatch.chdir(tmp_path)
    data = matrix(model_folders, methods=[{"name": "iisan-cached"}, {"name": "linear-probe-cached"}], name="two")
    data |= {"budget": {"steps": 2, "batch_size": 16}, "datasets": [{"seed": 2}, {"seed": 3}]}
    Path("mine.toml").write_text(tomli_w.dumps(data))
    for _ in range(2):  # the second time everything is kept
        assert run_bench.main(["run", "--config", "mine.toml"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["two"]
    for name in ("two-shop-2", "two-shop-3"):
        assert (tmp_path / "runs/two" / name / "SHA256SUMS").is_file()
        assert len(list((tmp_path / "runs/two" / name / "cells").iterdir())) == 2
    lines = (tmp_path / "runs/two/results.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
