"""What a checkpoint of a cell holds, and how a cell goes on from one as if nothing had happened.

Tensors are in a safetensors file: trained values now and at the best epoch, buffers, Adam's moments and step counts,
the ranks of the best epoch, the states of torch's random numbers. The rest is JSON. Nothing else draws at random while
a cell trains: batches are a function of seed and epoch, so the number of steps done says which one is next.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.cell.checkpoint_files import (
    CheckpointError,
    Count,
    StepCounter,
    check,
    checkpoint_folder,
    checkpoints,
    write_checkpoint,
)
from bench.config.cells import Cell
from bench.measure.clock import Row
from bench.measure.environment import cpu_model
from bench.measure.training_meters import MeterReadings
from bench.training.loop import Evaluation, Trainer, Training
from bench.utils.text import printable

SCHEMA = 1
TENSORS, STATE = "tensors.safetensors", "state.json"
# Of Adam per parameter; the step count has no dimensions.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Saved:
    """Where a cell stood after one of its epochs.

    Attributes:
        rows: of the clock.
        ranks: of the validation targets at the best epoch, (users,).
        readings: what the meters had said.
        times: how often the cell had been resumed when this was written.
    """

    training: Training
    rows: list[Row]
    ranks: NDArray[np.int64]
    readings: MeterReadings
    times: int


class Checkpoints:
    """The checkpoints of one cell.

    Args:
        cell: says how often.
        folder: of the cell.
        batch_digest: of the batches that it trains on.
        steps_per_epoch: optimizer steps of a pass over all users.
    """

    def __init__(self, cell: Cell, folder: Path, batch_digest: str, steps_per_epoch: int):
        self.warnings: list[str] = []
        self.count = Count()
        self._every, self._steps_per_epoch = cell.checkpoint_every, steps_per_epoch
        self._parent = checkpoint_folder(folder)
        self._counter: StepCounter | None = None
        device = torch.device(cell.device)
        # Another machine or torch computes other digits in other times, and two of them are never mixed.
        self._identity = {
            "schema": SCHEMA,
            "cell": cell.cell_id,
            "batches": batch_digest,
            "torch": str(torch.__version__),
            "processor": cpu_model(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
        }

    def resume(self, trainer: Trainer) -> Saved | None:
        """Puts the trainer and torch's random numbers where the newest checkpoint left them, if there is one.

        One that is damaged or of another cell is named on standard error and left alone.

        Args:
            trainer: in any state, of the same cell.
        """
        saved = None
        for folder in checkpoints(self._parent):
            try:
                saved = self._load(folder, trainer)
                break
            except CheckpointError as error:
                print(f"{printable(error)}: ignored", file=sys.stderr)
        if saved is not None or self._every is not None:
            with suppress(OSError):
                self._counter = StepCounter(self._parent)
                self._begin(saved)
        return saved

    def _begin(self, saved: Saved | None) -> None:
        """Says in the counter's file that another process has taken over."""
        assert self._counter is not None
        if saved is not None:
            step, count = len(saved.training.losses), self._counter.read()
            self.count = Count(saved.times + 1, None, step)
            if count is not None and count.step >= step and count.times >= saved.times:
                lost = None if count.lost is None else count.lost + count.step - step
                self.count = Count(count.times + 1, lost, step)
        self._counter.write(self.count)

    def follow(self, steps: int) -> None:
        """Told after every step how many are done; a kill then loses no count of them."""
        if self._counter is not None:
            self.count = Count(self.count.times, self.count.lost, steps)
            with suppress(OSError):
                self._counter.write(self.count)

    def due(self, last: Evaluation) -> bool:
        """Whether a checkpoint is to be written after this evaluation: one at the end of every n-th epoch."""
        return self._every is not None and last.step % self._steps_per_epoch == 0 and last.epoch % self._every == 0

    def save(
        self,
        trainer: Trainer,
        training: Training,
        rows: Sequence[Row],
        ranks: NDArray[np.int64],
        readings: MeterReadings,
    ) -> None:
        """Writes a checkpoint. One that cannot be written is a warning: the cell goes on without it."""
        tensors = _tensors(trainer, training.best_state) | {"ranks": torch.from_numpy(ranks)}
        state = {
            "identity": self._identity,
            "epoch": training.curve[-1].epoch,
            "step": len(training.losses),
            "training": {
                "curve": [asdict(evaluation) for evaluation in training.curve],
                "best": training.best,
                "losses": training.losses,
                "seconds": training.seconds,
                "skipped": training.skipped,
            },
            "rows": list(rows),
            "scaler": trainer.scaler.state_dict(),
            "meters": readings.as_dict(),
            "resumed": self.count.times,
        }
        text = json.dumps(state, allow_nan=False)
        try:
            write_checkpoint(
                self._parent,
                len(training.losses),
                {
                    TENSORS: lambda path: save_file(tensors, path),
                    STATE: lambda path: path.write_text(text, encoding="utf-8"),
                },
            )
        except (OSError, RuntimeError, SafetensorError) as error:
            print(
                f"{printable(self._parent)}: no checkpoint after epoch {state['epoch']}: {printable(error)}",
                file=sys.stderr,
            )
            self.warnings = ["a checkpoint could not be written"]

    def _load(self, folder: Path, trainer: Trainer) -> Saved:
        """Reads and checks everything before it touches anything."""
        check(folder)
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            for key, now in self._identity.items():
                if (there := state["identity"][key]) != now:
                    raise CheckpointError(f"checkpoint {folder}: {key} was {there!r} and is {now!r}")
            tensors = load_file(folder / TENSORS)
            _check_shapes(tensors, trainer)
            saved = Saved(
                # Copies, so that the file is not held open by them.
                _training(state["training"], [tensor.clone() for tensor in _of(tensors, trainer, "best")]),
                state["rows"],
                tensors["ranks"].clone().numpy(),
                MeterReadings.from_dict(state["meters"]),
                int(state["resumed"]),
            )
            scaler = dict(state["scaler"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"checkpoint {folder}: {type(error).__name__}: {error}") from error
        _restore(trainer, tensors, scaler)
        return saved


def _training(values: Mapping[str, Any], best_state: list[Tensor]) -> Training:
    curve = [Evaluation(**evaluation) for evaluation in values["curve"]]
    return Training(**{**values, "curve": curve, "best_state": best_state})


def _names(trainer: Trainer) -> list[str]:
    """The names of the trained parameters, in the trainer's order."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return [names[id(parameter)] for parameter in trainer.parameters]


def _of(tensors: Mapping[str, Tensor], trainer: Trainer, what: str) -> list[Tensor]:
    return [tensors[f"{what}.{name}"] for name in _names(trainer)]


def _tensors(trainer: Trainer, best_state: Sequence[Tensor]) -> dict[str, Tensor]:
    """Everything that is a tensor, on the host."""
    moments = trainer.optimizer.state_dict()["state"]
    found: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        found["rng.cuda"] = torch.cuda.get_rng_state(trainer.device)
    for index, (name, value, best) in enumerate(zip(_names(trainer), trainer.parameters, best_state, strict=True)):
        found |= {f"trained.{name}": value.detach(), f"best.{name}": best}
        found |= {f"adam.{name}.{key}": moments[index][key] for key in MOMENTS if index in moments}
    found |= {f"buffer.{name}": buffer for name, buffer in trainer.model.named_buffers()}
    return {name: tensor.to("cpu").contiguous() for name, tensor in found.items()}


def _check_shapes(tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Raises ValueError or KeyError where the tensors are not those of the model."""
    expected = {f"buffer.{name}": tuple(buffer.shape) for name, buffer in trainer.model.named_buffers()}
    for name, parameter in zip(_names(trainer), trainer.parameters, strict=True):
        shape = tuple(parameter.shape)
        expected |= {f"trained.{name}": shape, f"best.{name}": shape}
        if f"adam.{name}.step" in tensors:  # a parameter that never had a gradient has no moments
            expected |= dict.fromkeys((f"adam.{name}.exp_avg", f"adam.{name}.exp_avg_sq"), shape)
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(tensors[name].shape)} and should be {shape}")


@torch.no_grad()
def _restore(trainer: Trainer, tensors: Mapping[str, Tensor], scaler: dict[str, Any]) -> None:
    trainer.restore(_of(tensors, trainer, "trained"))
    for name, buffer in trainer.model.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    # Copies: tensors of the file lie at any address, those that an optimizer makes at one that suits the processor.
    moments = {
        index: {key: tensors[f"adam.{name}.{key}"].clone() for key in MOMENTS}
        for index, name in enumerate(_names(trainer))
        if f"adam.{name}.step" in tensors
    }
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    if trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(scaler)
    torch.set_rng_state(tensors["rng.cpu"])
    if trainer.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["rng.cuda"], trainer.device)
