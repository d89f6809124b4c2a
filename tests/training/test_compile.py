"""Compiled steps: the same losses, nothing compiled while steps are timed, and a line where it cannot be done."""

from __future__ import annotations

import os
import shutil
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cell.assemble import Assembly, assemble
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell
from bench.data.batches import Batch, all_batches, largest_batch, log_popularity, smallest_batch
from bench.models.recommender import UserEncoder
from bench.training import compile
from bench.training.compile import StepCompiler
from bench.training.evaluate import evaluate
from bench.training.loop import Trainer
from bench.utils.errors import UserError
from tests.tiny import cell_of, matrix

Folders = dict[str, Path]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))), reason="no C++ compiler"
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as torch takes them down, without code made of them."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def cell(name: str, folders: Folders, on: bool, **changes: Any) -> Cell:
    training = matrix(folders)["training"] | {"compile": on, "dropout": 0.0}
    return cell_of(name, folders, training=training, modality=["text"], **changes)


def plain(folders: Folders, on: bool = True, **changes: Any) -> Cell:
    """One with little to compile: a head, and what every cell has."""
    return cell("frozen", folders, on, methods=[{"name": "frozen", "cached": True, "lr_head": 5e-3}], **changes)


class Rig:
    """A cell's model and batches, and its step compiler."""

    def __init__(self, spec: Cell):
        self.spec = spec
        self.assembly: Assembly = assemble(spec, CPU)
        self.trainer = Trainer(self.assembly.model, self.assembly.groups, spec.training, spec.precision, CPU)
        self.compiler = StepCompiler(spec.training.compile, lambda: None)

    def batches(self, count: int) -> list[Batch]:
        """The first ones, of as many sizes as there are."""
        return list(islice(all_batches(self.assembly.data.splits, self.spec.budget.batch_size, 0), count))

    def loss(self, batch: Batch) -> float:
        """Of a step, before it."""
        moved = self.trainer.transfer(
            batch, self.assembly.feed.gather(batch.unique), log_popularity(self.assembly.data.splits)
        )
        torch.manual_seed(6)  # the same dropout in the encoders
        return self.trainer.step(moved).item()

    def compiled(self) -> dict[str, Any]:
        """What a record would say."""
        found = self.compiler.as_dict()
        assert found is not None
        return found

    def warm(self) -> None:
        """As a cell does it; the weights move."""
        self.assembly.model.train()
        self.compiler.compile(self.assembly.model, self.assembly.encoders)
        of = self.assembly.data.splits, self.spec.budget.batch_size, 0
        with self.compiler.running():
            for batch in (largest_batch(*of), smallest_batch(*of)):
                self.loss(batch)
        self.compiler.end_warm_up()

    def evaluate(self) -> None:
        """Ranks some users, as between two epochs."""
        splits = self.assembly.data.splits
        with self.compiler.eager():
            evaluate(
                self.assembly.model,
                self.assembly.feed,
                splits.valid_inputs,
                splits.valid_target,
                splits.valid_history,
                self.assembly.data.n_items,
                CPU,
            )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("lora", "prefix")), "iisan"])
def test_losses_are_those_of_eager_steps(name: str, model_folders: Folders) -> None:
    eager, rig = (Rig(cell(name, model_folders, on)) for on in (False, True))
    names = list(rig.assembly.model.state_dict())
    start = rig.trainer.state()
    rig.warm()
    assert list(rig.assembly.model.state_dict()) == names
    rig.trainer.restore(start)
    rig.trainer.reset_optimizer()
    eager.assembly.model.train()
    batches = rig.batches(6)
    assert len({len(batch.unique) for batch in batches}) > 2
    with rig.compiler.running():
        for place, batch in enumerate(batches):
            assert rig.loss(batch) == pytest.approx(eager.loss(batch), abs=1e-4)
            if place == 2:
                rig.evaluate()
    found = rig.compiled()
    assert found["graphs"] > 2
    assert found["seconds"] > 0
    assert (found["timed"], found["timed_seconds"], rig.compiler.warnings) == (0, 0.0, ())


@pytest.mark.usefixtures("quick")
def test_compilations_while_steps_are_timed_are_told(model_folders: Folders) -> None:
    rig = Rig(plain(model_folders))
    rig.warm()
    before = rig.compiled()
    rig.trainer.precision = "bf16"  # other graphs: of the network, of user encoder and loss
    with rig.compiler.running():
        rig.loss(rig.batches(1)[0])
    found = rig.compiled()
    assert (found["timed"], found["graphs"], found["seconds"]) == (2, before["graphs"] + 2, before["seconds"])
    assert found["timed_seconds"] > 0
    [warning] = rig.compiler.warnings
    assert warning.startswith("--compile: 2 compilations")


@pytest.mark.usefixtures("quick")
def test_it_never_goes_on_uncompiled(model_folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile, "MAX_GRAPHS", 1)
    rig = Rig(plain(model_folders))
    rig.warm()
    rig.trainer.precision = "bf16"
    with pytest.raises(UserError, match=r"^--compile: FailOnRecompileLimitHit: "), rig.compiler.running():
        rig.loss(rig.batches(1)[0])
    with pytest.raises(UserError, match="--compile: torch found nothing to compile"):
        StepCompiler(True, lambda: None).end_warm_up()


@needs_compiler
@pytest.mark.slow
@pytest.mark.usefixtures("no_plan")
def test_a_cell_says_what_was_compiled(model_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr("bench.cell.assemble.UserEncoder", partial(UserEncoder, n_blocks=1))
    specs = [plain(model_folders, on, budget={"steps": 3, "batch_size": 16}) for on in (False, True)]
    assert specs[0].cell_id != specs[1].cell_id
    with config.patch({"compile_threads": 1}):  # no processes that compile beside this one
        eager, compiled = (run_cell(spec, tmp_path / spec.cell_id, lambda _: None) for spec in specs)
    assert compiled["row"]["status"] == "ok", compiled
    assert eager["compile"] is None
    told = compiled["compile"]
    assert told["graphs"] >= 2
    assert told["seconds"] > 0
    assert told["timed"] == 0
    assert compiled["training"]["compile"] is True
    assert [p["loss"] for p in compiled["curve"]] == pytest.approx([p["loss"] for p in eager["curve"]], abs=1e-4)
    # The account is of an eager step, and nothing else measures memory on a CPU.
    assert compiled["memory"] == eager["memory"]
    assert (compiled["row"]["peak_memory_bytes"], compiled["row"]["memory_source"]) == (None, None)
    for column in ("flops_forward", "flops_backward"):
        assert compiled["row"][column] == eager["row"][column]


@pytest.mark.usefixtures("no_plan")
def test_without_a_compiler_a_cell_fails_with_a_line(
    model_folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    with config.patch({"cpp.cxx": (None, str(tmp_path / "none")), "compile_threads": 1}):
        record = run_cell(plain(model_folders), tmp_path, lambda _: None)
    assert record["row"]["status"] == "failed"
    assert record["row"]["error"].startswith("--compile: InvalidCxxCompiler: No working C++ compiler")
    assert record["compile"]["graphs"] == 0
