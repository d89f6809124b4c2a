"""The one training loop for all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.budget import Budget
from bench.config import TrainingConfig
from bench.data.batches import Batch
from bench.data.items import ItemFeed
from bench.measure.clock import StepClock
from bench.models.recommender import Recommender, TrainBatch
from methods.base import Group

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Diverged(Exception):
    """The loss is not finite any more."""


@dataclass(frozen=True)
class Evaluation:
    """One point of the training curve; train_seconds is training alone."""

    epoch: int
    step: int
    train_seconds: float
    loss: float
    valid_hr: float
    valid_ndcg: float


class Trainer:
    """A model with its optimizer: Adam with a learning rate per group, clipping, autocast."""

    def __init__(
        self, model: Recommender, groups: Iterable[Group], config: TrainingConfig, precision: str, device: torch.device
    ):
        self.model = model
        self.groups = tuple(groups)
        self.config = config
        self.precision = precision
        self.device = device
        self.parameters: list[nn.Parameter] = [p for group in self.groups for p in group.parameters]
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Forgets gradients, Adam's moments and the loss scale."""
        for parameter in self.parameters:
            parameter.grad = None
        # Fused, because the plain step reads a counter with .item(), which fake tensors do not have.
        self.optimizer = torch.optim.Adam(
            [{"params": list(group.parameters), "lr": group.lr} for group in self.groups], fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")

    def set_progress(self, step: int, progress: float) -> None:
        """Learning rates for a step: linear warm-up, then constant or linear to zero over the budget."""
        factor = min(1.0, (step + 1) / max(1, self.config.lr_warmup_steps))
        if self.config.lr_schedule == "linear":
            factor = min(factor, 1.0 - progress)
        for group, entry in zip(self.groups, self.optimizer.param_groups, strict=True):
            entry["lr"] = group.lr * factor

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision with 32-bit weights, or nothing."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, AUTOCAST[self.precision])

    def transfer(self, batch: Batch, inputs: dict[str, Tensor], log_popularity: NDArray[np.float32]) -> TrainBatch:
        """Moves one batch to the device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(self.device)

        return TrainBatch(
            {key: move(value) for key, value in inputs.items()},
            move(torch.from_numpy(batch.items)),
            move(torch.from_numpy(batch.positions)),
            move(torch.from_numpy(log_popularity[batch.unique])),
        )

    def forward(self, batch: TrainBatch) -> Tensor:
        """The loss."""
        with self.autocast():
            return self.model(batch)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the trained parameters."""
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """Clips, steps, and frees the gradients."""
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, batch: TrainBatch) -> Tensor:
        """One whole step without a clock; returns the loss."""
        loss = self.forward(batch)
        self.backward(loss)
        self.update()
        return loss.detach()

    def state(self) -> list[Tensor]:
        """Copies of the trained values on the host."""
        return [p.detach().to("cpu", copy=True) for p in self.parameters]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Puts a :meth:`state` back."""
        for parameter, value in zip(self.parameters, state, strict=True):
            parameter.copy_(value)


@dataclass(frozen=True)
class Training:
    """What training left.

    Attributes:
        curve: one entry per evaluation.
        best: index into ``curve`` of the best validation HR@10, the first of equals.
        losses: per step.
        seconds: of training alone.
    """

    curve: tuple[Evaluation, ...]
    best: int
    losses: tuple[float, ...]
    seconds: float


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    feed: ItemFeed,
    log_popularity: NDArray[np.float32],
    budget: Budget,
    clock: StepClock,
    validate: Callable[[], tuple[float, float]],
    report: Callable[[dict[str, Any]], None],
) -> Training:
    """Trains until the budget is spent and leaves the model at the epoch that validation chose.

    Args:
        validate: gives validation HR@10 and NDCG@10; runs outside the clock.
        report: told about progress, outside the clock.

    Raises:
        Diverged: the loss is not finite.
    """
    curve: list[Evaluation] = []
    losses: list[float] = []
    best_state: list[Tensor] = []
    best, seconds, since = -1, 0.0, 0
    trainer.model.train()
    progress = 0.0
    while progress < 1.0:
        trainer.set_progress(len(losses), progress)
        epoch = len(losses) // budget.steps_per_epoch + 1
        started = time.perf_counter()
        with clock.step(epoch, len(losses) + 1):
            with clock.phase("data"):
                batch = next(batches)
                inputs = feed.gather(batch.unique)
            with clock.phase("transfer"):
                moved = trainer.transfer(batch, inputs, log_popularity)
            with clock.phase("forward"):
                loss = trainer.forward(moved)
            with clock.phase("backward"):
                trainer.backward(loss)
            with clock.phase("optimizer"):
                trainer.update()
        elapsed = clock.rows[-1]["seconds"] if clock.enabled else time.perf_counter() - started
        assert elapsed is not None  # a step that ended has its seconds
        seconds += elapsed
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise Diverged(f"loss is {losses[-1]} at step {len(losses)}")
        progress = budget.progress(len(losses), seconds)
        report({"event": "step", "progress": progress, "loss": losses[-1], "train_seconds": seconds})
        if budget.evaluate_after(len(losses), spent=progress >= 1.0):
            hr, ndcg = validate()
            curve.append(Evaluation(epoch, len(losses), seconds, float(np.mean(losses[since:])), hr, ndcg))
            since = len(losses)
            if best < 0 or hr > curve[best].valid_hr:
                best, best_state = len(curve) - 1, trainer.state()
            report({"event": "evaluation", "epoch": epoch, "valid_hr@10": hr, "loss": curve[-1].loss})
    trainer.restore(best_state)
    return Training(tuple(curve), best, tuple(losses), seconds)
