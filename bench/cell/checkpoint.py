"""Checkpoints of a cell: their contents, and resuming a training from them with identical results.

Tensors are in a safetensors file: trained values of the last and of the best epoch, buffers, Adam's moments and step
counts, the ranks of the best epoch, and the states of torch's random number generators. The rest is in JSON. No other
state is random: batches are a function of seed and epoch, so the number of steps done determines the next batch.
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
    ResumeCount,
    StepCounter,
    checkpoint_folder,
    list_checkpoints,
    verify_checkpoint,
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
# Adam's state of a parameter: a step count without dimensions and two moments of the parameter's shape.
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class SavedTraining:
    """State of a cell's training as read from a checkpoint.

    Attributes:
        training: curve, losses and best trained values.
        rows: rows of the clock, one per step.
        ranks: ranks of the validation targets at the best epoch, (users,).
        readings: readings of the meters until the checkpoint.
        times: number of times the cell had been resumed when the checkpoint was written.
    """

    training: Training
    rows: list[Row]
    ranks: NDArray[np.int64]
    readings: MeterReadings
    times: int


class Checkpoints:
    """Writes, finds and restores the checkpoints of one cell.

    Attributes:
        warnings: for the reader of the report.
        count: number of resumes, steps lost and steps done.

    Args:
        cell: cell, with the number of epochs between checkpoints.
        folder: folder of the cell.
        batch_digest: digest of the batches that the cell trains on.
        steps_per_epoch: optimizer steps of a pass over all users.
    """

    def __init__(self, cell: Cell, folder: Path, batch_digest: str, steps_per_epoch: int):
        self.warnings: list[str] = []
        self.count = ResumeCount()
        self._every, self._steps_per_epoch = cell.checkpoint_every, steps_per_epoch
        self._parent = checkpoint_folder(folder)
        self._counter: StepCounter | None = None
        device = torch.device(cell.device)
        # Another machine or version of torch gives other digits and other times, which must not be mixed in one cell.
        self._identity = {
            "schema": SCHEMA,
            "cell": cell.cell_id,
            "batches": batch_digest,
            "torch": str(torch.__version__),
            "processor": cpu_model(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "threads": torch.get_num_threads(),
        }

    def resume(self, trainer: Trainer) -> SavedTraining | None:
        """Restore trainer and random number generators from the newest usable checkpoint; None if there is none.

        A checkpoint that is damaged or of another cell is named on standard error and ignored.

        Args:
            trainer: trainer of the same cell, in any state.
        """
        saved = None
        for folder in list_checkpoints(self._parent):
            try:
                saved = self._load(folder, trainer)
                break
            except CheckpointError as error:
                print(f"{printable(error)}; this checkpoint is ignored", file=sys.stderr)
        if saved is not None or self._every is not None:
            with suppress(OSError):
                self._counter = StepCounter(self._parent)
                self._start_counting(saved)
        return saved

    def _start_counting(self, saved: SavedTraining | None) -> None:
        """Count a resume, and the steps that it lost, in the counter's file."""
        assert self._counter is not None
        if saved is not None:
            step, count = len(saved.training.losses), self._counter.read()
            self.count = ResumeCount(saved.times + 1, None, step)
            if count is not None and count.step >= step and count.times >= saved.times:
                lost = None if count.lost is None else count.lost + count.step - step
                self.count = ResumeCount(count.times + 1, lost, step)
        self._counter.write(self.count)

    def count_steps(self, steps: int) -> None:
        """Write the number of steps done; called after every step, so that a kill does not lose the number."""
        if self._counter is not None:
            self.count = ResumeCount(self.count.times, self.count.lost, steps)
            with suppress(OSError):
                self._counter.write(self.count)

    def is_due(self, last: Evaluation) -> bool:
        """True if a checkpoint has to be written after this evaluation: at the end of every n-th epoch."""
        return self._every is not None and last.step % self._steps_per_epoch == 0 and last.epoch % self._every == 0

    def save(
        self,
        trainer: Trainer,
        training: Training,
        rows: Sequence[Row],
        ranks: NDArray[np.int64],
        readings: MeterReadings,
    ) -> None:
        """Write a checkpoint; a failure is a warning, and the cell continues.

        Args:
            trainer: trained values, optimizer and loss scaler.
            training: progress so far, with an evaluation of the last step.
            rows: rows of the clock, one per step.
            ranks: ranks of the validation targets at the best epoch, (users,).
            readings: readings of the meters so far.
        """
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
                f"{printable(self._parent)}: no checkpoint written after epoch {state['epoch']}: {printable(error)}",
                file=sys.stderr,
            )
            self.warnings = ["a checkpoint could not be written"]

    def _load(self, folder: Path, trainer: Trainer) -> SavedTraining:
        """Read and verify a checkpoint, then restore the trainer; the trainer is unchanged if anything is wrong.

        Raises:
            CheckpointError: the checkpoint is damaged or belongs to another cell, machine or version of torch.
        """
        verify_checkpoint(folder)
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            for key, current in self._identity.items():
                if (written := state["identity"][key]) != current:
                    raise CheckpointError(f"checkpoint {folder}: {key} was {written!r} and is now {current!r}")
            tensors = load_file(folder / TENSORS)
            _check_shapes(tensors, trainer)
            saved = SavedTraining(
                # Copies: tensors of the file would keep it open.
                _training(state["training"], [tensor.clone() for tensor in _select(tensors, trainer, "best")]),
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
    """Names of the trained parameters, in the trainer's order."""
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return [names[id(parameter)] for parameter in trainer.parameters]


def _select(tensors: Mapping[str, Tensor], trainer: Trainer, prefix: str) -> list[Tensor]:
    """One tensor of the prefix per trained parameter, in the trainer's order."""
    return [tensors[f"{prefix}.{name}"] for name in _names(trainer)]


def _tensors(trainer: Trainer, best_state: Sequence[Tensor]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by name, on the host."""
    moments = trainer.optimizer.state_dict()["state"]
    tensors: dict[str, Tensor] = {"rng.cpu": torch.get_rng_state()}
    if trainer.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(trainer.device)
    for index, (name, value, best) in enumerate(zip(_names(trainer), trainer.parameters, best_state, strict=True)):
        tensors |= {f"trained.{name}": value.detach(), f"best.{name}": best}
        tensors |= {f"adam.{name}.{key}": moments[index][key] for key in MOMENTS if index in moments}
    tensors |= {f"buffer.{name}": buffer for name, buffer in trainer.model.named_buffers()}
    return {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()}


def _check_shapes(tensors: Mapping[str, Tensor], trainer: Trainer) -> None:
    """Check that the tensors of a checkpoint fit the model.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape; the message names it.
    """
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
    trainer.restore(_select(tensors, trainer, "trained"))
    for name, buffer in trainer.model.named_buffers():
        buffer.copy_(tensors[f"buffer.{name}"])
    # Copies: tensors of the file lie at any address, tensors that the optimizer makes are aligned for the processor.
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
