"""The search: as much for every method, by validation alone, the same when it is broken off and goes on."""

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cell.run_cell import run_cell
from bench.commands.tune.space import Space, distributions, searched
from bench.commands.tune.study import Search, library
from bench.commands.tune.tune import search_in
from bench.config.cells import Cell
from bench.config.matrix import Matrix, parse, read_toml
from bench.launch.local import Report
from bench.records import run_folder
from bench.records.record import cell_folder, failure, read_record, write_record
from bench.utils.errors import UserError
from methods.base import method_class
from run_bench import main
from tests.tiny import matrix as tiny

pytest.importorskip("optuna", reason="needs the extra [tune]")

SPACE = Space((1e-4, 1e-2), (2, 4, 8))
Figure = Callable[[Cell], float | None]


def of(*names: str, **changes: Any) -> Matrix:
    return parse({"name": "t-tuning", "methods": [{"name": name} for name in names], **changes}, "t")


def made_up(figure: Figure, ran: list[Cell]) -> Callable[[Sequence[Cell], Path, Report], None]:
    """In place of processes: a cell leaves a record at once, with a figure that hangs on its options alone."""

    def go(cells: Sequence[Cell], run: Path, report: Report) -> None:
        for cell in cells:
            ran.append(cell)
            value = figure(cell)
            folder = cell_folder(run, cell.cell_id)
            folder.mkdir(parents=True, exist_ok=True)
            record = failure(cell, "diverged" if value is None else "ok", "" if value else "loss is nan")
            record["row"] |= {"valid_hr@10": value, "energy_joules": None if value is None else 5.0}
            write_record(folder, record)

    return go


def nearer(cell: Cell) -> float:
    """Best at a learning rate of 1e-3."""
    return 1 / (1 + abs(math.log10(cell.method.options["lr_head"]) + 3))


def look(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "tuning.json").read_text())
    return {method["name"]: method for method in found["methods"]}


def options(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: [trial["options"] for trial in method["trials"]] for name, method in look(out).items()}


def test_the_rules_are_the_same_for_every_method() -> None:
    expected = {
        "fft": {"lr_head": "rate", "lr_text": "rate", "lr_image": "rate"},
        "frozen": {"lr_head": "rate"},
        "bitfit": {"lr_head": "rate", "lr": "rate"},
        "adapter": {"lr_head": "rate", "lr": "rate", "bottleneck": "size"},
        "lora": {"lr_head": "rate", "lr": "rate", "rank": "size"},
        "prefix": {"lr_head": "rate", "lr": "rate", "positions": "size"},
        "iisan": {"lr_head": "rate", "lr": "rate", "bottleneck": "size"},
        "iisan-cached": {"lr_head": "rate", "lr": "rate", "bottleneck": "size"},
    }
    assert {name: searched(method_class(name)()) for name in expected} == expected
    drawn = [d for method in of(*expected).methods for d in distributions(method, SPACE).items()]
    assert {(d.low, d.high, d.log) for name, d in drawn if name.startswith("lr")} == {(1e-4, 1e-2, True)}
    assert {d.choices for name, d in drawn if not name.startswith("lr")} == {(2, 4, 8)}


def test_each_method_has_as_many_trials_and_the_best_is_chosen(tmp_path: Path) -> None:
    ran: list[Cell] = []
    matrix = of("frozen", "lora", "prefix")
    assert search_in(tmp_path, matrix, "cpu", Search(4, SPACE), {"digest": "d"}, made_up(nearer, ran)) == 0
    names = ["frozen", "lora", "prefix"]
    assert [cell.method.name for cell in ran] == names * 4  # even, whenever it is stopped
    assert not any(cell.test for cell in ran)
    assert len({cell.cell_id for cell in ran}) == 12
    best = parse(read_toml(tmp_path / "best.toml"), "best")
    assert best.name == "t-tuned"
    for name, method, one in zip(names, best.methods, best.tuning or (), strict=True):
        own = [cell for cell in ran if cell.method.name == name]
        values = [nearer(cell) for cell in own]
        assert method.options == own[values.index(max(values))].method.options
        assert {key: method.options[key] for key in one.options} == one.options
        assert (one.name, one.trials, one.failed, one.metered, one.joules, one.data) == (name, 4, 0, 4, 20.0, "d")
        assert list(one.curve) == [(n, max(values[:n])) for n in range(1, 5)]
        trials = look(tmp_path)[name]["trials"]
        assert [trial["valid_hr@10"] for trial in trials] == values
        assert one.seconds == pytest.approx(sum(trial["seconds"] for trial in trials))
    assert dataclasses.replace(best, name="t-tuning", methods=matrix.methods, tuning=None) == matrix


def test_a_rerun_tries_the_same_and_another_seed_does_not(tmp_path: Path) -> None:
    matrix = of("lora")
    for name, trials, seed in (("a", 12, 3), ("b", 12, 3), ("c", 2, 4)):  # from the 11th on by what was found
        search_in(tmp_path / name, matrix, "cpu", Search(trials, SPACE, seed), {}, made_up(nearer, []))
    first, again, other = (options(tmp_path / name)["lora"] for name in "abc")
    assert first == again
    assert first[0] == other[0]  # the recipe's
    assert all(one != two for one, two in zip(first[1:], other[1:], strict=False))
    assert len({trial["lr_head"] for trial in first}) == 12


def test_the_first_trial_is_what_the_recipe_says_or_the_nearest_that_can_be_drawn(tmp_path: Path) -> None:
    given = {"name": "lora", "lr_head": 2e-3, "lr": 5e-2, "rank": 5}
    matrix = parse({"name": "t-tuning", "methods": [given, {"name": "prefix"}]}, "t")
    search_in(tmp_path, matrix, "cpu", Search(1, SPACE), {}, made_up(nearer, []))
    tried = options(tmp_path)
    assert tried["lora"] == [{"lr_head": 2e-3, "lr": 1e-2, "rank": 4}]
    written = {f.name: f.default for f in dataclasses.fields(method_class("prefix"))}
    assert tried["prefix"][0]["lr"] == written["lr"]


def test_ranks_within_the_options_of_peft_are_searched_and_carried_back(tmp_path: Path) -> None:
    given = {"type": "LOKR", "target": ["query"], "r": 5, "alpha": 3}
    methods = [{"name": "lokr", "peft": given, "lr": 1e-3}, {"name": "ia3", "peft": {"type": "IA3"}}]
    methods += [{"name": "prompt", "peft": {"type": "PROMPT_TUNING", "num_virtual_tokens": 4}}]
    matrix = parse({"name": "t-tuning", "methods": methods}, "t")
    drawn = {method.name: set(distributions(method, SPACE)) - {"lr", "lr_head"} for method in matrix.methods}
    assert drawn == {"lokr": {"peft.r"}, "ia3": set(), "prompt": {"peft.num_virtual_tokens"}}
    ran: list[Cell] = []

    def best_at_two(cell: Cell) -> float:
        return 1.0 if cell.method.options["peft"].get("r") == 2 else 0.5

    search_in(tmp_path, matrix, "cpu", Search(9, SPACE), {}, made_up(best_at_two, ran))
    tried = [cell.method.options["peft"] for cell in ran if cell.method.name == "lokr"]
    assert tried[0] == {**given, "r": 4}  # the recipe's, or the nearest
    assert {2, 4} <= {options["r"] for options in tried} <= {2, 4, 8}
    assert all({**options, "r": 5} == given for options in tried)
    best = parse(read_toml(tmp_path / "best.toml"), "best")
    assert best.methods[0].options["peft"] == {**given, "r": 2}
    assert best.methods[1].options["peft"] == {"type": "IA3"}
    assert (best.tuning or ())[0].options["peft.r"] == 2


def test_a_search_that_was_stopped_goes_on_as_it_would_have(tmp_path: Path) -> None:
    matrix, search = of("frozen", "lora"), Search(4, SPACE)
    search_in(tmp_path / "whole", matrix, "cpu", search, {}, made_up(nearer, []))
    ran: list[Cell] = []

    def stop(cells: Sequence[Cell], run: Path, report: Report) -> None:
        if len(ran) == 3:
            raise KeyboardInterrupt
        made_up(nearer, ran)(cells, run, report)

    with pytest.raises(KeyboardInterrupt):
        search_in(tmp_path / "cut", matrix, "cpu", search, {}, stop)
    assert {name: len(tried) for name, tried in options(tmp_path / "cut").items()} == {"frozen": 2, "lora": 1}
    assert (tmp_path / "cut" / "best.toml").is_file()
    search_in(tmp_path / "cut", matrix, "cpu", search, {}, made_up(nearer, ran))
    assert len(ran) == 8  # what was stopped had no result, and every method has as many as it was to have
    assert options(tmp_path / "cut") == options(tmp_path / "whole")
    for name, method in look(tmp_path / "cut").items():
        assert [trial["status"] for trial in method["trials"]] == ["ok"] * 4
        assert {**method["best"], "seconds": 0} == {**look(tmp_path / "whole")[name]["best"], "seconds": 0}


def test_what_an_interrupted_trial_took_counts(tmp_path: Path) -> None:
    took: list[float] = []

    def interrupted(cells: Sequence[Cell], run: Path, report: Report) -> None:
        [cell] = cells
        started = time.monotonic()
        time.sleep(0.2)
        folder = cell_folder(run, cell.cell_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, failure(cell, "interrupted", "stopped before its end"))
        took.append(time.monotonic() - started)
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search_in(tmp_path, of("frozen"), "cpu", Search(1, SPACE), {}, interrupted)
        assert look(tmp_path)["frozen"]["trials"] == []
    search_in(tmp_path, of("frozen"), "cpu", Search(1, SPACE), {}, made_up(nearer, []))
    [trial] = look(tmp_path)["frozen"]["trials"]
    assert trial["seconds"] >= sum(took) >= 0.4
    assert look(tmp_path)["frozen"]["best"]["failed"] == 0


def test_a_search_that_was_killed_goes_on(tmp_path: Path) -> None:
    def die(cells: Sequence[Cell], run: Path, report: Report) -> None:
        os._exit(9)

    def die_after(cells: Sequence[Cell], run: Path, report: Report) -> None:
        made_up(nearer, [])(cells, run, report)
        os._exit(9)

    matrix, ran = of("frozen"), []  # type: tuple[Matrix, list[Cell]]
    for go in (die, die_after):
        child = os.fork()
        if child == 0:
            search_in(tmp_path, matrix, "cpu", Search(3, SPACE), {}, go)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert search_in(tmp_path, matrix, "cpu", Search(3, SPACE), {}, made_up(nearer, ran)) == 0
    assert len(ran) == 2  # the first had ended, and only its study had not been told
    found = look(tmp_path)["frozen"]
    assert [trial["status"] for trial in found["trials"]] == ["ok", "ok", "ok"]
    assert found["trials"][0]["seconds"] is None
    assert [point[0] for point in found["best"]["curve"]] == [1, 2, 3]


def test_failed_trials_count_and_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def half(cell: Cell) -> float | None:
        return None if cell.method.name == "bitfit" or cell.method.options["lr_head"] > 1e-3 else 0.2

    matrix = of("frozen", "bitfit")
    assert search_in(tmp_path, matrix, "cpu", Search(6, SPACE), {}, made_up(half, [])) == 1
    found = look(tmp_path)
    high = sum(trial["options"]["lr_head"] > 1e-3 for trial in found["frozen"]["trials"])
    assert 0 < high < 6
    assert found["frozen"]["best"]["failed"] == high
    assert {trial["status"] for trial in found["bitfit"]["trials"]} == {"diverged"}
    assert found["bitfit"]["best"] is None
    assert [method.name for method in parse(read_toml(tmp_path / "best.toml"), "b").methods] == ["frozen"]
    said = capsys.readouterr().err
    assert f"frozen: validation HR@10 0.2000, 6 trials, {high} of them failed" in said
    assert "bitfit: no trial ended ok" in said


def test_more_trials_extend_a_search_and_another_search_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "what? 100%"
    matrix, ran = of("frozen"), []  # type: tuple[Matrix, list[Cell]]
    for trials in (2, 3):
        search_in(out, matrix, "cpu", Search(trials, SPACE), {}, made_up(nearer, ran))
    assert len(ran) == 3
    assert (out / "study.db").is_file()
    for search, match in (
        (Search(2, SPACE), "--trials 2: .* holds 3 trials of frozen"),
        (Search(3, SPACE, 1), "search_seed: there 0, now 1"),
        (Search(3, Space((1e-4, 1e-1), SPACE.sizes)), "lr_range: there"),
    ):
        with pytest.raises(UserError, match=match):
            search_in(out, matrix, "cpu", search, {}, made_up(nearer, ran))
    (out / "study.db").write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match=r"study\.db: cannot be read"):
        search_in(out, matrix, "cpu", Search(3, SPACE), {}, made_up(nearer, ran))


@pytest.mark.usefixtures("no_plan")
def test_trials_never_see_the_test_targets(model_folders: dict[str, Path], tmp_path: Path) -> None:
    def here(cells: Sequence[Cell], run: Path, report: Report) -> None:
        for cell in cells:
            folder = cell_folder(run, cell.cell_id)
            folder.mkdir(parents=True)
            run_cell(cell, folder, lambda _: None)

    methods = [{"name": "iisan-cached", "layers": (0, 2)}]
    matrix = parse(tiny(model_folders, methods=methods), "t")
    assert search_in(tmp_path, matrix, "cpu", Search(2, SPACE), {}, here) == 0
    paths = list((tmp_path / "cells").glob("*/record.json"))
    assert len(paths) == 2
    for path in paths:
        row = read_record(path.parent)["row"]
        assert row["status"] == "ok", row["error"]
        assert row["hr@10"] is row["ndcg@10"] is None
        ranks = pd.read_csv(path.parent / "ranks.csv")
        assert ranks["test_rank"].isna().all()
        assert row["valid_hr@10"] == (ranks["valid_rank"] <= 10).mean()
    best = parse(read_toml(tmp_path / "best.toml"), "best")
    assert best.methods[0].options["layers"] == [0, 2]  # what is not searched stays


@pytest.mark.usefixtures("cells_in_this_process")
def test_the_command(model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import tomli_w

    recipe = tmp_path / "m.toml"
    recipe.write_text(tomli_w.dumps(tiny(model_folders, methods=[{"name": "frozen"}], budget={"steps": 1})))
    out = tmp_path / "out"
    assert main(["tune", "--config", str(recipe), "--trials", "1", "--lr-range", "1e-3,2e-3", "--out", str(out)]) == 0
    assert "frozen--" in (said := capsys.readouterr().err)
    assert ": validation HR@10" in said
    [trial] = look(out)["frozen"]["trials"]
    assert trial["status"] == "ok"
    assert trial["seconds"] > read_record(out / "cells" / trial["cell"])["row"]["train_seconds"]
    assert 1e-3 <= trial["options"]["lr_head"] <= 2e-3
    assert "references" not in json.loads((out / "dataset.json").read_text())
    assert run_folder.damaged(out) == []
    assert "test_rank" in (out / "cells" / trial["cell"] / "ranks.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trials", "0"], "at least 1"),
        (["--trials", "1", "--lr-range", "1e-2,1e-3"], "--lr-range 0.01,0.001"),
        (["--trials", "1", "--lr-range", "1e-2"], "two numbers"),
        (["--trials", "1", "--sizes", "4,4"], "--sizes 4,4"),
        (["--trials", "1", "--seeds", "0,1"], "2 seeds"),
        (["--trials", "1", "--preset", "coverage"], "4 pairs of backbones"),
        (["--trials", "1", "--dataset", "table", "--data-dir", "a", "--data-dir", "b"], "2 datasets"),
    ],
)
def test_what_cannot_be(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status: Any = main(["tune", *arguments, "--out", str(tmp_path / "out")])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"iisan-bench\[tune\]"):
        library()
