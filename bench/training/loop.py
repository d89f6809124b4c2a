"""The one training loop for all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.batches import Batch
from bench.measure.clock import StepClock
from bench.models.inputs import ItemFeed
from bench.models.recommender import Recommender, TrainBatch
from bench.training.budget import Budget
from bench.training.config import TrainingConfig
from methods.base import Group, Observed, Step, StepHook

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


# In 16 bit a gradient that overflows is part of finding the scale of the loss. It starts at 2^16 and is halved each
# time: after twenty times in a row it is 1/16, and what still overflows is the gradient itself.
SKIPS = 20


class Diverged(Exception):
    """The loss or the gradient is not finite any more.

    Attributes:
        what: "loss" or "gradient norm".
        value: inf, -inf or nan.
        step, epoch: where.
        last_good_epoch: the last one that was evaluated; None if there was none.
    """

    def __init__(self, what: str, value: float, step: int, epoch: int, last_good_epoch: int | None, skipped: int = 0):
        again = f", for the {skipped}th time in a row" if skipped > 1 else ""
        good = "none" if last_good_epoch is None else str(last_good_epoch)
        super().__init__(f"{what} is {value} at step {step}, in epoch {epoch}{again}; last good epoch: {good}")
        self.what, self.value, self.step, self.epoch, self.last_good_epoch = what, value, step, epoch, last_good_epoch


@dataclass(frozen=True)
class Evaluation:
    """One point of the training curve; train_seconds is training alone, observed what the method tells of itself."""

    epoch: int
    step: int
    train_seconds: float
    loss: float
    valid_hr: float
    valid_ndcg: float
    observed: Observed = field(default_factory=dict)


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
        self.hooks = [module for module in model.modules() if isinstance(module, StepHook)]
        self.reset_optimizer()

    def reset_optimizer(self) -> None:
        """Forgets gradients, Adam's moments, the loss scale, and what hooks have seen."""
        for parameter in self.parameters:
            parameter.grad = None
        # Fused, because the plain step reads a counter with .item(), which fake tensors do not have.
        self.optimizer = torch.optim.Adam(
            [{"params": list(group.parameters), "lr": group.lr} for group in self.groups], fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        for hook in self.hooks:
            hook.reset()

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

    def objective(self, loss: Tensor) -> Tensor:
        """What is minimised: the loss and what the method adds to it."""
        penalties = [hook.penalty() for hook in self.hooks]
        return sum((penalty for penalty in penalties if penalty is not None), loss)

    def backward(self, loss: Tensor) -> None:
        """Gradients of the trained parameters."""
        self.scaler.scale(self.objective(loss)).backward()

    def update(self, number: int = 0, of: int = 0) -> Tensor:
        """Clips, steps, and frees the gradients; gives their norm before clipping.

        Args:
            number, of: those of :class:`methods.base.Step`.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for hook in self.hooks:
            # Looked at in training alone: a planned norm has no value.
            updated = not (number and self.scaler.is_enabled()) or bool(norm.isfinite())
            hook.after(Step(number, of, updated))
        self.optimizer.zero_grad(set_to_none=True)
        return norm

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


@dataclass
class Training:
    """What training has done so far: with the trainer's state and torch's random numbers all there is between steps.

    Attributes:
        curve: one entry per evaluation.
        best: index into ``curve`` of the best validation HR@10, the first of equals; -1 before the first.
        best_state: the trained values then, on the host.
        losses: per step.
        seconds: of training alone.
        skipped: the last steps in a row that the loss scaler left out because a gradient was not finite.
    """

    curve: list[Evaluation] = field(default_factory=list)
    best: int = -1
    best_state: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0

    def check(self, norm: float, epoch: int, scaled: bool) -> None:
        """Whether the last step was one to go on from.

        Args:
            norm: of its gradient, before clipping.
            epoch: that it was in.
            scaled: there is a loss scaler, which leaves such steps out and tries again at half the scale.

        Raises:
            Diverged: the loss, or the gradient norm, is not finite.
        """
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        for what, value, bad in (
            ("loss", self.losses[-1], not math.isfinite(self.losses[-1])),
            ("gradient norm", norm, self.skipped >= (SKIPS if scaled else 1)),
        ):
            if bad:
                good = self.curve[-1].epoch if self.curve else None
                raise Diverged(what, value, len(self.losses), epoch, good, self.skipped if scaled else 0)


def train(
    trainer: Trainer,
    batches: Iterator[Batch],
    feed: ItemFeed,
    log_popularity: NDArray[np.float32],
    budget: Budget,
    clock: StepClock,
    validate: Callable[[], tuple[float, float]],
    report: Callable[[dict[str, Any]], None],
    training: Training | None = None,
    evaluated: Callable[[], None] = lambda: None,
    observe: Callable[[], Observed] = dict,
) -> None:
    """Trains until the budget is spent and leaves the model at the epoch that validation chose.

    Args:
        batches: those that are still to come.
        validate: gives validation HR@10 and NDCG@10; runs outside the clock.
        report: told about progress, outside the clock.
        training: where it stands; brought up to date after every step, and goes on from there.
        evaluated: called outside the clock when an evaluation is entered in ``training``.
        observe: what is kept with an evaluation, outside the clock too.

    Raises:
        Diverged: the loss or the gradient norm is not finite.
    """
    done = Training() if training is None else training
    trainer.model.train()
    progress = budget.progress(len(done.losses), done.seconds)
    while progress < 1.0:
        trainer.set_progress(len(done.losses), progress)
        epoch = len(done.losses) // budget.steps_per_epoch + 1
        started = time.perf_counter()
        with clock.step(epoch, len(done.losses) + 1):
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
                norm = trainer.update(len(done.losses) + 1, budget.limit_steps or 0)
        elapsed = clock.rows[-1]["seconds"] if clock.enabled else time.perf_counter() - started
        assert elapsed is not None  # a step that ended has its seconds
        done.seconds += elapsed
        done.losses.append(loss.item())
        done.check(norm.item(), epoch, trainer.scaler.is_enabled())
        progress = budget.progress(len(done.losses), done.seconds)
        report({"event": "step", "progress": progress, "loss": done.losses[-1], "train_seconds": done.seconds})
        if budget.evaluate_after(len(done.losses), spent=progress >= 1.0):
            _evaluate(trainer, done, epoch, validate, report, observe)
            evaluated()
    trainer.restore(done.best_state)


def _evaluate(
    trainer: Trainer,
    done: Training,
    epoch: int,
    validate: Callable[[], tuple[float, float]],
    report: Callable[[dict[str, Any]], None],
    observe: Callable[[], Observed],
) -> None:
    hr, ndcg = validate()
    since = done.curve[-1].step if done.curve else 0
    loss = float(np.mean(done.losses[since:]))
    done.curve.append(Evaluation(epoch, len(done.losses), done.seconds, loss, hr, ndcg, observe()))
    if done.best < 0 or hr > done.curve[done.best].valid_hr:
        done.best, done.best_state = len(done.curve) - 1, trainer.state()
    report({"event": "evaluation", "epoch": epoch, "valid_hr@10": hr, "loss": loss})
