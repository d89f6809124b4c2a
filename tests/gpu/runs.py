"""The runs that the lines read: each is made when it is first asked for, by the command line of the project."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from bench.cell.checkpoint_files import checkpoint_folder, list_checkpoints
from reports.load.run_folders import Record, load_run
from tests.benchmarks.kill import kill
from tests.gpu.line import CheckError

ROOT = Path(__file__).parents[2]
METHODS = ("fft", "frozen", "lora", "iisan", "iisan-cached")
CACHED = "iisan-cached"
LEAST_USERS = 4
STEPS_PER_EPOCH = 40
CELLS_SHARE = 0.4
"""Part of the time for the cells whose number of steps is free; the rest has a length of its own."""
Records = Mapping[str, Record]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Scale:
    """Sizes of the runs.

    Attributes:
        settings: entries of the matrix that all runs share.
        items: items of the shop.
        batch_size: users per step; halved until full fine-tuning fits.
        steps_per_epoch: steps of an epoch, which give the number of users.
        first_steps: steps of the first, short run.
        steps: least and most steps of a cell.
        cached_epochs: epochs of the cell that is killed, and of the one that it is compared with.
        parallel: cells that run at a time.
    """

    settings: Mapping[str, Any]
    items: int
    batch_size: int
    steps_per_epoch: int
    first_steps: int
    steps: tuple[int, int]
    cached_epochs: int
    parallel: int


PAPER = Scale(
    {
        "device": "cuda",
        "precision": "bf16",
        "backbones": [{"text": "bert-base", "image": "vit-base", "weights": "random"}],
        "training": {"lr_schedule": "constant"},
    },
    # Enough distinct items for a batch that no card of today holds; an epoch has the batch that memory peaks on.
    items=3000,
    batch_size=32,
    steps_per_epoch=STEPS_PER_EPOCH,
    first_steps=8,
    steps=(STEPS_PER_EPOCH, 10 * STEPS_PER_EPOCH),
    cached_epochs=4,
    parallel=1,
)


def toy(models: Path) -> Scale:
    """Sizes for a CPU; writes the two encoders into a folder."""
    from tests import tiny

    for family in ("bert", "vit"):
        tiny.save(family, models / family)
    settings = {
        "device": "cpu",
        "backbones": [{"text": str(models / "bert"), "image": str(models / "vit")}],
        "training": {"width": 16, "lr_schedule": "constant", "lr_warmup_steps": 1, "timing_warmup_steps": 1},
    }
    return Scale(settings, items=60, batch_size=16, steps_per_epoch=3, first_steps=3, steps=(6, 6), cached_epochs=40,
                 parallel=2)  # fmt: skip


@dataclass(frozen=True)
class Pace:
    """What the first run shows.

    Attributes:
        records: its cell.
        batch_size: users per step that full fine-tuning has memory for.
        fixed_seconds: seconds of a run of one cell without its training.
        step_seconds: seconds of a step of full fine-tuning, the longest of all methods.
    """

    records: Records
    batch_size: int
    fixed_seconds: float
    step_seconds: float


def steps_that_fit(seconds: float, cells: int, pace: Pace, bounds: tuple[int, int]) -> int:
    """Steps of a cell so that all cells are over in time, each step counted as one of full fine-tuning.

    Args:
        seconds: time for all cells.
        cells: cells with as many steps as this.
        bounds: least and most steps, whatever the time.
    """
    fitting = (seconds / cells - pace.fixed_seconds) / pace.step_seconds
    return min(max(int(fitting), bounds[0]), bounds[1])


class Runs:
    """Runs by name, each made once.

    Args:
        scratch: folder for run folders and caches.
        dry: toys on a CPU instead of paper scale on a card.
        seconds: time for the whole check; no command may take longer.
    """

    def __init__(self, scratch: Path, dry: bool, seconds: float):
        self.dry, self.seconds = dry, seconds
        self.scale = toy(scratch / "models") if dry else PAPER
        self.folder = scratch / "runs"
        self.folder.mkdir()
        threads = {"OMP_NUM_THREADS": "1"} if dry else {}  # several toys run at a time
        self._environment = {**os.environ, **threads, "IISAN_BENCH_CACHE": str(scratch / "cache")}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)
        self._made: dict[str, Any] = {}

    def first(self) -> Pace:
        """Some steps of full fine-tuning in fp16, with fewer users per step if there is no memory for them."""
        return self._once("first", self._first)

    def cells(self) -> Records:
        """Every method, in the precision of the scale; the cached one builds its cache."""
        return self._once("cells", lambda: self._made_at_length("cells", METHODS))

    def cudnn(self) -> Records:
        """LoRA with cuDNN's attention, with as many steps as it has without."""

        def make() -> Records:
            self.cells()
            return self._made_at_length("cudnn", ["lora"], training={"cudnn_attention": True})

        return self._once("cudnn", make)

    def found(self) -> Records:
        """The cached method, after the run that built its cache."""

        def make() -> Records:
            self.cells()
            return self._run("found", [CACHED], {"epochs": self.scale.cached_epochs})

        return self._once("found", make)

    def killed(self) -> Records:
        """The same run with checkpoints, killed after the first of them and started again."""

        def make() -> Records:
            self.cells()
            matrix = self._matrix("killed", [CACHED], {"epochs": self.scale.cached_epochs})
            options = ["--checkpoint-every", "1"]
            self._kill_after_checkpoint("killed", matrix, options)
            return self._finish("killed", matrix, options)

        return self._once("killed", make)

    def out_of_memory(self) -> Records:
        """All users in one step: full fine-tuning, which no card has memory for, and the cached method after it."""

        def make() -> Records:
            users = self.scale.steps_per_epoch * self.first().batch_size
            budget = {"steps": 1, "batch_size": users}
            return self._run("out-of-memory", ["fft", CACHED], budget, training={"attention": "eager"})

        return self._once("out-of-memory", make)

    def folders(self) -> list[Path]:
        """Run folders so far."""
        return sorted(path for path in self.folder.iterdir() if (path / "cells").is_dir())

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command of Python in the root of the project, with the cache of these runs."""
        command, limit = [sys.executable, *arguments], self.seconds
        return subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=limit)

    def write_matrix(self, name: str, methods: Sequence[str], budget: Mapping[str, Any], **changes: Any) -> Path:
        """A matrix file of this scale.

        Args:
            changes: entries of the matrix; those of tables are merged.
        """
        budget = {"batch_size": self.scale.batch_size, **budget}
        settings = dict(self.scale.settings)
        training = {**settings.pop("training"), **changes.pop("training", {})}
        users = changes.pop("users", self.scale.steps_per_epoch * budget["batch_size"])
        matrix = {
            "name": name,
            **settings,
            "dataset": {"items": self.scale.items, "users": users},
            "budget": budget,
            "training": training,
            "methods": [{"name": method} for method in methods],
            **changes,
        }
        path = self.folder / f"{name}.toml"
        path.write_text(tomli_w.dumps(matrix), encoding="utf-8")
        return path

    def _matrix(self, name: str, methods: Sequence[str], budget: Mapping[str, Any], **changes: Any) -> Path:
        """A matrix file with the batch size and the users of the first run."""
        batch_size = self.first().batch_size
        users = self.scale.steps_per_epoch * batch_size
        return self.write_matrix(name, methods, {"batch_size": batch_size, **budget}, users=users, **changes)

    def _run(self, name: str, methods: Sequence[str], budget: Mapping[str, Any], **changes: Any) -> Records:
        return self._finish(name, self._matrix(name, methods, budget, **changes))

    def _made_at_length(self, name: str, methods: Sequence[str], **changes: Any) -> Records:
        """A run with as many steps as fit."""
        steps = steps_that_fit(CELLS_SHARE * self.seconds, len(METHODS) + 1, self.first(), self.scale.steps)
        return self._run(name, methods, {"steps": steps}, **changes)

    def _first(self) -> Pace:
        batch_size = self.scale.batch_size
        while True:
            budget = {"steps": self.scale.first_steps, "batch_size": batch_size}
            name = f"first-{batch_size}-users"
            started = time.monotonic()
            records = self._finish(name, self.write_matrix(name, ["fft"], budget, precision="fp16"))
            took, record = time.monotonic() - started, records["fft"]
            if record.ok:
                trained = record.row["train_seconds"]
                return Pace(records, batch_size, took - trained, trained / record.row["steps"])
            if record.row["status"] != "oom" or batch_size // 2 < LEAST_USERS:
                raise CheckError(f"the first run: {record.row['status']}: {record.row['error']}")
            batch_size //= 2

    def _arguments(self, name: str, matrix: Path, options: Sequence[str]) -> list[str]:
        parallel = str(self.scale.parallel)
        run = ["run_bench.py", "run", "--config", str(matrix), "--out", str(self.folder / name)]
        return [*run, "--parallel", parallel, *options]

    def _finish(self, name: str, matrix: Path, options: Sequence[str] = ()) -> Records:
        """Run to the end; the records by method, whatever the status of their cells."""
        done = self.command(*self._arguments(name, matrix, options))
        if done.returncode not in (0, 1):
            raise CheckError(f"run {name}: exit status {done.returncode}: {(done.stderr or '-').splitlines()[-1]}")
        return {record.row["method"]: record for record in load_run(self.folder / name).records}

    def _kill_after_checkpoint(self, name: str, matrix: Path, options: Sequence[str]) -> None:
        """Start a run, and end it and its cell with SIGKILL as soon as the cell has a checkpoint."""
        command = [sys.executable, *self._arguments(name, matrix, options)]
        with (self.folder / "killed.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stderr=log, stdout=log, start_new_session=True
            )
            limit = time.monotonic() + self.seconds
            cells = self.folder / name / "cells"
            while not any(list_checkpoints(checkpoint_folder(cell)) for cell in cells.glob("*")):
                if process.poll() is not None:
                    raise CheckError("the run ended before it could be killed")
                if time.monotonic() > limit:
                    kill(process)
                    raise CheckError(f"no checkpoint after {self.seconds:.0f} s")
                time.sleep(0.005)
            if left := kill(process):
                raise CheckError(f"{left} processes of the killed run are left")

    def _once(self, name: str, make: Callable[[], Value]) -> Value:
        """The run of a name; one that cannot be made raises the same error each time."""
        with self._locks[name]:
            if name not in self._made:
                try:
                    self._made[name] = make()
                except Exception as error:
                    self._made[name] = error
        if isinstance(self._made[name], Exception):
            raise self._made[name]
        return self._made[name]
