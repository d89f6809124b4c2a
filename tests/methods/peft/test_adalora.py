"""AdaLoRA in the loop: how many ranks are left, what warm-up and resuming leave behind, and what it costs."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

import run_bench
from bench.cell.assemble import Assembly, assemble
from bench.cell.checkpoint import Checkpoints
from bench.cell.planner import DataBatches, Planner
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import build_method, parse, to_toml
from bench.data.batches import all_batches, log_popularity
from bench.measure.clock import StepClock
from bench.measure.training_meters import MeterReadings
from bench.training.budget import Budget
from bench.training.loop import Trainer, Training, TrainingData, TrainingHooks, train
from bench.utils.errors import UserError
from methods.base import Step
from methods.peft.adalora import Allocation
from tests.helpers import encoder, inputs
from tests.tiny import matrix

Folders = dict[str, Path]
CPU = torch.device("cpu")
# 40 users in batches of 16: three steps an epoch. Query and value of 4 layers: 8 maps an encoder.
INIT, TARGET, MAPS = 6, 2, 8
BEFORE, AFTER = 1, 2
OPTIONS = {"type": "ADALORA", "init_r": INIT, "target_r": TARGET, "tinit": BEFORE, "tfinal": AFTER}


def cell_of(folders: Folders, budget: dict[str, Any] | None = None, **peft: Any) -> Cell:
    changes = {"methods": [{"name": "ada", "peft": OPTIONS | peft, "lr": 5e-3}]}
    changes["budget"] = {"batch_size": 16, **(budget or {"epochs": 4})}  # type: ignore[assignment]
    return cells(parse(matrix(folders, **changes), "t"), "cpu")[0]


def built(cell: Cell, precision: str = "fp32") -> tuple[Assembly, Trainer]:
    assembly = assemble(cell, CPU)
    return assembly, Trainer(assembly.model, assembly.groups, cell.training, precision, CPU)


class Watched(TrainingHooks):
    """Validation says that every epoch is better than the last; notes the ranks in text and image after every step."""

    def __init__(self, assembly: Assembly, done: Training, evaluated: Callable[[], None]):
        super().__init__(StepClock(CPU))
        self.assembly, self.done, self.after = assembly, done, evaluated
        self.seen: list[list[int]] = []

    def validate(self) -> tuple[float, float]:
        return len(self.done.losses), 0

    def evaluated(self) -> None:
        self.after()

    def report(self, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self.seen.append(left(self.assembly))


def trained(
    cell: Cell,
    assembly: Assembly,
    trainer: Trainer,
    steps: int,
    done: Training,
    evaluated: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Trains for some steps; gives the ranks in text and image after every step."""
    splits = assembly.data.splits
    batches = all_batches(splits, 16, cell.seed, len(done.losses))
    hooks = Watched(assembly, done, evaluated)
    train(trainer, TrainingData(batches, assembly.feed, log_popularity(splits)), Budget(steps, None, 3), hooks, done)
    return hooks.seen


def left(assembly: Assembly) -> list[int]:
    return [sum(int((p != 0).sum()) for p in singular(encoder)) for encoder in assembly.encoders]


def singular(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p for name, p in module.named_parameters() if "lora_E" in name]


def cubic(step: int, steps: int) -> int:
    """The budget of the paper's equation 12, over all maps of an encoder."""
    start, end = BEFORE, steps - AFTER
    left = 1 - (step - start) / (end - start)
    return int((INIT - TARGET) * MAPS * max(left, 0) ** 3 + TARGET * MAPS)


def test_ranks_fall_as_the_paper_says_and_end_at_the_target(model_folders: Folders) -> None:
    cell = cell_of(model_folders)
    assembly, trainer = built(cell)
    seen = trained(cell, assembly, trainer, 12, Training())
    # The first step is before tinit. The weights of singular values start at zero and all move in it.
    assert seen == [[INIT * MAPS] * 2, *([cubic(step, 12)] * 2 for step in range(2, 13))]
    assert seen[-3:] == [[TARGET * MAPS] * 2] * 3
    # At the epoch that validation chose, which is the last one here.
    assert left(assembly) == seen[-1]


def test_in_16_bit_with_steps_that_are_left_out_ranks_end_at_the_target_too(model_folders: Folders) -> None:
    cell = cell_of(model_folders)
    assembly, trainer = built(cell, "fp16")
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)  # overflows at first
    done = Training()
    seen = trained(cell, assembly, trainer, 12, done)
    assert trainer.scaler.get_scale() < 2.0**20
    assert seen[0] == [0, 0]  # nothing has moved
    assert seen[-3:] == [[TARGET * MAPS] * 2] * 3
    assert all(buffer.isfinite().all() for buffer in assembly.model.buffers())


def test_steps_outside_of_training_mask_nothing_and_leave_nothing(model_folders: Folders) -> None:
    cell = cell_of(model_folders)
    ends = []
    for warm in (False, True):
        assembly, trainer = built(cell)
        start = trainer.state()
        if warm:
            splits = assembly.data.splits
            batch = next(all_batches(splits, 16, 7))
            moved = trainer.transfer(batch, assembly.feed.gather(batch.unique), log_popularity(splits))
            for _ in range(5):
                trainer.step(moved)
            assert all((p != 0).all() for p in singular(assembly.model))
            trainer.restore(start)
            trainer.reset_optimizer()
        torch.manual_seed(0)
        trained(cell, assembly, trainer, 12, Training())
        ends.append(trainer.state())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class Killed(Exception):
    pass


def run_until(cell: Cell, folder: Path, steps: int, stop: int | None = None) -> tuple[Training, list[torch.Tensor]]:
    """Trains as a cell does, from a checkpoint if there is one, and dies having written one after ``stop`` steps."""
    assembly, trainer = built(cell)
    torch.manual_seed(cell.seed)
    checkpoints = Checkpoints(cell, folder, "digest", 3)
    saved = checkpoints.resume(trainer)
    done = Training() if saved is None else saved.training

    def evaluated() -> None:
        if len(done.losses) == stop:
            checkpoints.save(trainer, done, [], np.zeros(1, dtype=np.int64), MeterReadings(None, {}, ()))
            raise Killed

    trained(cell, assembly, trainer, steps, done, evaluated)
    return done, trainer.state()


@pytest.mark.parametrize("stop", [6, 12])
def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    stop: int, model_folders: Folders, tmp_path: Path
) -> None:
    """After 6 of 14 steps scores count; after 12, the last masking, ranks are to stay as they are."""
    cell = cell_of(model_folders, {"steps": 14})
    whole, end = run_until(cell, tmp_path / "whole", 14)
    with pytest.raises(Killed):
        run_until(cell, tmp_path / "cut", 14, stop)
    cut, cut_end = run_until(cell, tmp_path / "cut", 14)
    assert cut.losses == whole.losses
    assert all(torch.equal(a, b) for a, b in zip(cut_end, end, strict=True))


@pytest.mark.slow
def test_a_plan_is_what_is_measured_and_what_is_saved_comes_back(model_folders: Folders, tmp_path: Path) -> None:
    cell = dataclasses.replace(cell_of(model_folders), save_adapters=True)
    record = run_cell(cell, tmp_path, lambda _: None)
    row, planned = record["row"], Planner(cell).plan(DataBatches.of(cell), 16)
    assert row["status"] == "ok", record
    assert row["peak_memory_bytes"] == planned.memory.peak_bytes
    assert (row["flops_forward"], row["flops_backward"]) == (planned.flops.forward, planned.flops.backward)
    for modality, family in (("text", "bert"), ("image", "vit")):
        saved = tmp_path / "adapter" / modality
        pattern = json.loads((saved / "adapter_config.json").read_text())["rank_pattern"]
        assert len(pattern) == MAPS
        PeftModel.from_pretrained(encoder(model_folders[family], modality).model, saved)


def test_the_penalty_is_the_distance_from_orthogonal(model_folders: Folders) -> None:
    method = build_method(cell_of(model_folders, orth_reg_weight=0.25).method, "t")
    e = encoder(model_folders["bert"], "text").requires_grad_(False)
    method.adapt(e)
    [allocation] = [module for module in e.modules() if isinstance(module, Allocation)]
    apart = []
    for name, p in e.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            rows = p.detach().numpy() if "lora_A" in name else p.detach().numpy().T
            apart.append(np.sqrt(((rows @ rows.T - np.eye(INIT)) ** 2).sum()))
    assert len(apart) == 2 * MAPS
    penalty = allocation.penalty()
    assert penalty.item() == pytest.approx(0.25 * np.mean(apart), rel=1e-5)


def test_a_step_that_was_left_out_scores_nothing(model_folders: Folders) -> None:
    """Its gradients are not finite and would spoil every later score."""
    e = encoder(model_folders["bert"], "text").requires_grad_(False)
    list(build_method(cell_of(model_folders).method, "t").adapt(e).parameters)
    [allocation] = [module for module in e.modules() if isinstance(module, Allocation)]
    e(inputs("text")).square().sum().backward()
    for p in e.parameters():
        if p.grad is not None:
            p.grad.fill_(float("inf"))
    allocation.after(Step(1, 12, updated=False))
    assert all(buffer.eq(0).all() for buffer in allocation.buffers())


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"total_step": 5}, "total_step comes from the budget"),
        ({"r": 4}, "r has no effect"),
        ({"target_r": INIT}, "below init_r"),
        ({"target_r": 0}, "at least 1"),
        ({"deltaT": 0}, "deltaT at least 1"),
    ],
)
def test_options_that_cannot_be(peft: dict[str, Any], said: str, model_folders: Folders) -> None:
    with pytest.raises(UserError, match=said):
        build_method(cell_of(model_folders, **peft).method, "t")


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ("--seconds=5", "method ada: ADALORA allocates ranks over a known number of steps"),
        ("--steps=3", "method ada: ADALORA: tinit 1 and tfinal 2 leave none of the 3 steps for allocation"),
        ("--epochs=1", "method ada: ADALORA: tinit 1 and tfinal 2 leave none of the 3 steps for allocation"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_before_anything_runs(
    budget: str, said: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"methods": [{"name": "ada", "peft": OPTIONS}]}
    (tmp_path / "m.toml").write_text(to_toml(parse(matrix(model_folders, **changes), "t")))
    arguments = ["run", "--config", str(tmp_path / "m.toml"), "--out", str(tmp_path / "out"), "--batch-size=16", budget]
    assert run_bench.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("budget", "said"), [({"seconds": 5}, "a known number of steps"), ({"steps": 3}, "3 steps")])
def test_a_plan_of_such_a_budget_is_refused_too(
    budget: dict[str, int], said: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"methods": [{"name": "ada", "peft": OPTIONS}], "budget": {**budget, "batch_size": 16}}
    (tmp_path / "m.toml").write_text(to_toml(parse(matrix(model_folders, **changes), "t")))
    assert run_bench.main(["plan", "--config", str(tmp_path / "m.toml")]) == 2
    assert said in capsys.readouterr().err
