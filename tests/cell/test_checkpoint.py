"""Cells that are stopped, killed or damaged in the middle, against the same cells undisturbed: to the last digit."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from bench.cell.checkpoint import STATE, Checkpoints
from bench.cell.checkpoint_files import checkpoint_folder, list_checkpoints
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import parse, to_toml
from bench.models.recommender import Recommender, UserEncoder
from bench.training.loop import Trainer, Training
from methods.base import Group
from tests.tiny import cell_of, matrix

CHANGES: dict[str, Any] = {"budget": {"epochs": 3, "batch_size": 16}, "checkpoint_every": 1}
# Of these only the clock may tell two runs apart.
SAME = ("hr@10", "ndcg@10", "valid_hr@10", "valid_ndcg@10", "best_epoch", "steps", "trainable_params", "status")
Report = Callable[[dict[str, Any]], None]

pytestmark = pytest.mark.usefixtures("no_plan")


@pytest.fixture(scope="module")
def undisturbed(
    model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[dict[str, Any], Path]]:
    """Method -> record and folder of a cell that nothing happens to and that keeps no checkpoints."""
    done: dict[str, tuple[dict[str, Any], Path]] = {}

    def run(name: str) -> tuple[dict[str, Any], Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            cell = dataclasses.replace(cell_of(name, model_folders, **CHANGES), checkpoint_every=None)
            done[name] = run_cell(cell, folder, lambda _: None), folder
            assert done[name][0]["resumed"] is None
            assert not checkpoint_folder(folder).exists()
        return done[name]

    return run


Undisturbed = Callable[[str], tuple[dict[str, Any], Path]]


def stop_at(step: int) -> Report:
    """A report that stops the cell after a step."""
    seen = []

    def report(event: dict[str, Any]) -> None:
        seen.append(event["event"])
        if seen.count("step") == step:
            raise KeyboardInterrupt

    return report


def assert_same(found: dict[str, Any], folder: Path, whole: tuple[dict[str, Any], Path]) -> None:
    expected, other = whole
    assert {key: found["row"][key] for key in SAME} == {key: expected["row"][key] for key in SAME}
    times = ("train_seconds",)
    assert [{k: v for k, v in point.items() if k not in times} for point in found["curve"]] == [
        {k: v for k, v in point.items() if k not in times} for point in expected["curve"]
    ]
    ours, theirs = pd.read_csv(folder / "steps.csv", dtype=str), pd.read_csv(other / "steps.csv", dtype=str)
    assert ours[["epoch", "step", "loss"]].equals(theirs[["epoch", "step", "loss"]])
    assert (folder / "ranks.csv").read_bytes() == (other / "ranks.csv").read_bytes()


@pytest.mark.parametrize("name", ["lora", "iisan-cached", "fft"])
def test_a_stopped_cell_goes_on_as_if_undisturbed(
    name: str, undisturbed: Undisturbed, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    cell = cell_of(name, model_folders, **CHANGES)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, folder, stop_at(5))  # two steps into the second epoch
    (checkpoint,) = list_checkpoints(checkpoint_folder(folder))
    before = json.loads((checkpoint / STATE).read_text())["rows"]
    assert [row["step"] for row in before] == [1, 2, 3]
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, folder, stop_at(1))
    events: list[dict[str, Any]] = []
    record = run_cell(cell, folder, events.append)
    assert record["row"]["status"] == "ok", record
    assert [event["step"] for event in events if event["event"] == "resumed"] == [3]
    assert record["resumed"] == {"times": 2, "steps_lost": 3, "at_step": 3, "at_epoch": 1}
    assert_same(record, folder, undisturbed(name))
    steps = pd.read_csv(folder / "steps.csv")
    assert list(steps["seconds"][:3]) == pytest.approx([row["seconds"] for row in before])
    assert record["row"]["train_seconds"] == pytest.approx(steps["seconds"].sum())
    assert not checkpoint_folder(folder).exists()


def in_a_process(cell: Cell, folder: Path, until: Callable[[dict[str, Any]], bool]) -> int:
    """Runs the cell's own process and kills it for good at an event; gives the exit status."""
    spec = folder.parent / "cell.json"
    spec.write_text(cell.to_json())
    command = [sys.executable, "-m", "bench.launch.worker", str(spec), str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and until(json.loads(line)):
                os.kill(process.pid, signal.SIGKILL)
                break
    return process.returncode


@pytest.mark.slow
def test_a_killed_process_loses_nothing_before_its_checkpoint(
    undisturbed: Undisturbed, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    cell = cell_of("adapter", model_folders, **{**CHANGES, "checkpoint_every": 2})
    folder = tmp_path / "killed"
    assert in_a_process(cell, folder, lambda event: event["event"] == "checkpoint") == -signal.SIGKILL
    assert not (folder / "record.json").exists()
    record = run_cell(cell, folder, lambda _: None)
    assert record["row"]["status"] == "ok", record
    assert_same(record, folder, undisturbed("adapter"))
    lost = record["resumed"].pop("steps_lost")
    assert record["resumed"] == {"times": 1, "at_step": 6, "at_epoch": 2}
    assert 0 <= lost <= 3  # it may have run on until the kill


@pytest.mark.parametrize("damage", ["flipped", "foreign", "other torch"])
def test_a_checkpoint_that_cannot_be_trusted_is_named_and_the_cell_starts_over(
    damage: str, undisturbed: Undisturbed, model_folders: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cell = cell_of("frozen", model_folders, **CHANGES)
    first = cell_of("frozen", model_folders, **CHANGES, seeds=[1]) if damage == "foreign" else cell
    folder = tmp_path / "cell"
    with pytest.raises(KeyboardInterrupt):
        run_cell(first, folder, stop_at(4))
    (checkpoint,) = list_checkpoints(checkpoint_folder(folder))
    if damage == "flipped":
        content = bytearray((checkpoint / STATE).read_bytes())
        content[len(content) // 2] ^= 1
        (checkpoint / STATE).write_bytes(content)
    if damage == "other torch":
        monkeypatch.setattr(torch, "__version__", "0.0.1")
    capsys.readouterr()
    record = run_cell(cell, folder, lambda _: None)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert {"flipped": STATE, "foreign": "cell was", "other torch": "torch was"}[damage] in line
    assert record["resumed"] is None
    assert_same(record, folder, undisturbed("frozen"))


def test_a_budget_in_seconds_counts_those_before(model_folders: dict[str, Path], tmp_path: Path) -> None:
    cell = cell_of("frozen", model_folders, budget={"seconds": 0.3, "batch_size": 16}, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, tmp_path, stop_at(4))
    record = run_cell(cell, tmp_path, lambda _: None)
    seconds = pd.read_csv(tmp_path / "steps.csv")["seconds"].cumsum()
    assert record["resumed"]["at_step"] == 3
    assert seconds.iloc[-1] >= 0.3 > seconds.iloc[-2]


def test_a_failed_cell_leaves_no_checkpoint(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("lost")

    monkeypatch.setattr("bench.cell.run_cell.CellRun.ranks", fail)
    record = run_cell(cell_of("frozen", model_folders, **CHANGES), tmp_path, lambda _: None)
    assert record["row"]["error"] == "ValueError: lost"
    assert not checkpoint_folder(tmp_path).exists()


def test_a_disk_that_takes_none_is_a_warning(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bench.cell.checkpoint.save_file", full)
    record = run_cell(cell_of("frozen", model_folders, **CHANGES), tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok"
    assert record["warnings"].count("a checkpoint could not be written") == 1


def test_the_option_is_no_part_of_what_a_cell_is(model_folders: dict[str, Path]) -> None:
    often, never = (
        cells(parse(matrix(model_folders, **changes), "t"), "cpu") for changes in ({"checkpoint_every": 3}, {})
    )
    assert [cell.cell_id for cell in often] == [cell.cell_id for cell in never]
    assert {cell.checkpoint_every for cell in often} == {3}
    assert "checkpoint_every" not in to_toml(parse(matrix(model_folders), "t"))


def fp16_trainer(cell: Cell) -> Trainer:
    torch.manual_seed(0)
    model = Recommender(torch.nn.Linear(3, 8), UserEncoder(8))
    model.register_buffer("seen", torch.zeros(2))
    idle = torch.nn.Parameter(torch.ones(1))
    model.register_parameter("idle", idle)
    groups = [Group("all", 1e-2, (*model.item_encoder.parameters(), idle))]
    return Trainer(model, groups, cell.training, "fp16", torch.device("cpu"))


def test_loss_scale_buffers_and_parameters_without_moments_come_back(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    cell = cell_of("frozen", model_folders, **CHANGES)
    trainer = fp16_trainer(cell)
    for _ in range(3):
        loss = trainer.model.item_encoder(torch.randn(4, 3)).square().sum()
        trainer.scaler.scale(loss).backward()
        trainer.update()
    overflow = trainer.model.item_encoder(torch.randn(4, 3)).sum() * 1e38
    trainer.scaler.scale(overflow).backward()
    assert not torch.isfinite(trainer.update())
    trainer.model.get_buffer("seen").add_(7)
    from bench.measure.training_meters import MeterReadings
    from bench.training.loop import Evaluation

    training = Training([Evaluation(1, 3, 0.5, 2.0, 0.1, 0.1)], 0, trainer.state(), [3.0, 2.5, 2.0], 0.5, 1)
    rows: list[dict[str, float | None]] = [{"epoch": 1, "step": i, "seconds": 0.1, "data": None} for i in (1, 2, 3)]
    readings = MeterReadings(None, {"peak_rss_bytes": 5}, ("slow",))
    ranks = torch.tensor([3, 1]).numpy()
    Checkpoints(cell, tmp_path, "d", 3).save(trainer, training, rows, ranks, readings)
    drawn = torch.rand(3)
    other = fp16_trainer(cell)
    saved = Checkpoints(cell, tmp_path, "d", 3).resume(other)
    assert saved is not None
    assert torch.equal(torch.rand(3), drawn)
    assert other.scaler.get_scale() == trainer.scaler.get_scale() == 2.0**15
    assert torch.equal(other.model.get_buffer("seen"), torch.full((2,), 7.0))
    assert all(torch.equal(a, b) for a, b in zip(other.parameters, trainer.parameters, strict=True))
    ours, theirs = other.optimizer.state_dict()["state"], trainer.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys() == {0, 1}  # the third never had a gradient
    assert all(torch.equal(ours[i][key], theirs[i][key]) for i in ours for key in ("step", "exp_avg", "exp_avg_sq"))
    assert (saved.training.losses, saved.training.skipped, saved.rows) == ([3.0, 2.5, 2.0], 1, rows)
    assert (saved.readings, list(saved.ranks)) == (readings, [3, 1])
    assert Checkpoints(cell, tmp_path, "e", 3).resume(fp16_trainer(cell)) is None
