"""The runs of a check: their matrices, their number of steps, and what is made again."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.config.cells import cells
from bench.config.matrix import Matrix, parse, read_toml
from tests.gpu.line import CheckError
from tests.gpu.runs import METHODS, PAPER, Pace, Runs, steps_that_fit

PACE = Pace({}, 32, fixed_seconds=30.0, step_seconds=0.25)


@pytest.mark.parametrize(("seconds", "steps"), [(6 * (30 + 0.25 * 60), 60), (6 * 31, 40), (0, 40), (10**6, 400)])
def test_the_steps_fit_the_time_within_bounds(seconds: float, steps: int) -> None:
    assert steps_that_fit(seconds, 6, PACE, (40, 400)) == steps


class Unmade(Runs):
    """Runs whose commands are noted and not made; each cell ends with the next of the given statuses."""

    def __init__(self, scratch: Path, dry: bool, statuses: tuple[str, ...] = ("ok",)):
        super().__init__(scratch, dry, seconds=480)
        self.statuses = list(statuses)
        self.matrices: dict[str, Matrix] = {}
        self.options: dict[str, list[str]] = {}

    def _finish(self, name: str, matrix: Path, options: Any = ()) -> Any:
        assert name not in self.matrices, "made twice"
        self.matrices[name] = parse(read_toml(matrix), str(matrix))
        self.options[name] = self._arguments(name, matrix, options)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        row = {"status": status, "error": "why", "train_seconds": 2.0, "steps": 8}
        return {method: SimpleNamespace(ok=status == "ok", row=row) for method in METHODS}

    def _kill_after_checkpoint(self, name: str, matrix: Path, options: Any) -> None:
        pass


def make_all(runs: Runs) -> None:
    for make in (runs.killed, runs.found, runs.cells, runs.first, runs.out_of_memory, runs.killed):
        make()


def test_runs_at_paper_scale(tmp_path: Path) -> None:
    runs = Unmade(tmp_path, dry=False)
    make_all(runs)
    assert sorted(runs.matrices) == ["cells", "first-32-users", "found", "killed", "out-of-memory"]
    for name, matrix in runs.matrices.items():
        (pair,) = matrix.backbones
        assert (pair.text, pair.image, pair.weights) == ("bert-base", "vit-base", "random"), name
        assert matrix.precision == ("fp16" if name == "first-32-users" else "bf16"), name
        assert (matrix.dataset.items, matrix.dataset.users) == (3000, 32 * 40), name
        assert matrix.budget.batch_size == (32 * 40 if name == "out-of-memory" else 32), name
    # Losses are compared, so the cells must be the same but for their budget.
    (found,), (killed,) = (cells(runs.matrices[name], "cuda:0") for name in ("found", "killed"))
    assert found.cell_id == killed.cell_id
    assert [method.name for method in runs.matrices["cells"].methods] == list(METHODS)
    assert "--checkpoint-every" in runs.options["killed"]
    assert {options[options.index("--parallel") + 1] for options in runs.options.values()} == {"1"}
    assert runs.matrices["cells"].budget.steps >= 40  # a whole epoch


def test_runs_of_toys(tmp_path: Path) -> None:
    runs = Unmade(tmp_path, dry=True)
    make_all(runs)
    for matrix in runs.matrices.values():
        assert (matrix.device, matrix.dataset.items) == ("cpu", 60)
        assert all(
            (Path(name) / "config.json").is_file() for pair in matrix.backbones for name in (pair.text, pair.image)
        )


def test_fewer_users_if_full_fine_tuning_runs_out_of_memory(tmp_path: Path) -> None:
    runs = Unmade(tmp_path, dry=False, statuses=("oom", "oom", "ok"))
    assert runs.first().batch_size == 8
    runs.cells()
    assert [matrix.budget.batch_size for matrix in runs.matrices.values()] == [32, 16, 8, 8]
    assert {matrix.dataset.users // matrix.budget.batch_size for matrix in runs.matrices.values()} == {40}


@pytest.mark.parametrize(("statuses", "made"), [(("failed",), 1), (("oom",), 4)])
def test_a_run_that_cannot_be_made_is_not_tried_again(tmp_path: Path, statuses: tuple[str, ...], made: int) -> None:
    runs = Unmade(tmp_path, dry=False, statuses=statuses)
    for make in (runs.first, runs.cells, runs.found):
        with pytest.raises(CheckError, match=f"the first run: {statuses[0]}: why"):
            make()
    assert len(runs.matrices) == made


def test_a_run_with_bad_input_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(tmp_path, dry=True, seconds=1)
    monkeypatch.setattr(
        subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 2, "", "a warning\nno such folder\n")
    )
    with pytest.raises(CheckError, match="run first-16-users: exit status 2: no such folder"):
        runs.first()


def test_a_run_that_ends_before_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(tmp_path, dry=True, seconds=1)
    monkeypatch.setattr(runs, "_arguments", lambda *_: ["-c", "pass"])
    with pytest.raises(CheckError, match="ended before it could be killed"):
        runs._kill_after_checkpoint("killed", tmp_path, [])


@pytest.mark.parametrize("what", ["command", "kill"])
def test_nothing_takes_longer_than_the_check_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    runs = Runs(tmp_path, dry=True, seconds=0.1)
    forever = ["-c", "import time; time.sleep(60)"]
    if what == "command":
        with pytest.raises(subprocess.TimeoutExpired):
            runs.command(*forever)
        return
    monkeypatch.setattr(runs, "_arguments", lambda *_: forever)
    with pytest.raises(CheckError, match="no checkpoint after 0 s"):
        runs._kill_after_checkpoint("killed", tmp_path, [])


def test_sizes_of_paper_scale() -> None:
    least, most = PAPER.steps
    assert PAPER.steps_per_epoch <= least < most  # the batch that memory peaks on is in the first epoch
