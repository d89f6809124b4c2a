"""Training loop, the same for all methods."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
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
from bench.training.prefetch import Prefetch
from methods.base import Group, Observed, Step, StepHook

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


# Skipped steps in a row that end a training. In 16 bit, gradients overflow until a suitable scale of the loss is found.
# The scale starts at 2^16 and is halved each time: after twenty times it is 1/16, and the gradient itself overflows.
SKIPS = 20


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Context of mixed precision with 32-bit weights; no-op for fp32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, AUTOCAST[precision])


class Diverged(Exception):
    """The loss or the gradient norm is not finite.

    Attributes:
        what: "loss" or "gradient norm".
        value: inf, -inf or nan.
        step, epoch: step and its epoch, counted from 1.
        last_good_epoch: last epoch that was evaluated; None if none was.
    """

    def __init__(self, what: str, value: float, step: int, epoch: int, last_good_epoch: int | None, skipped: int = 0):
        again = f", for the {skipped}th time in a row" if skipped > 1 else ""
        good = "none" if last_good_epoch is None else str(last_good_epoch)
        super().__init__(f"{what} is {value} at step {step}, in epoch {epoch}{again}; last good epoch: {good}")
        self.what, self.value, self.step, self.epoch, self.last_good_epoch = what, value, step, epoch, last_good_epoch


@dataclass(frozen=True)
class Evaluation:
    """One point of the training curve.

    Attributes:
        epoch, step: position, counted from 1.
        train_seconds: seconds of training alone until here.
        loss: mean loss of the steps since the last evaluation.
        valid_hr, valid_ndcg: validation HR@10 and NDCG@10.
        observed: values that the method reports, such as gates.
    """

    epoch: int
    step: int
    train_seconds: float
    loss: float
    valid_hr: float
    valid_ndcg: float
    observed: Observed = field(default_factory=dict)


class Trainer:
    """Model with its optimizer: Adam with a learning rate per group, gradient clipping, autocast.

    Args:
        model: recommender, on the device.
        groups: trained parameters and their learning rates.
        config: settings of the loop.
        precision: "fp32", "bf16" or "fp16".
        device: device of the training.
    """

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
        """Clear gradients, Adam's moments, the loss scale, and the state of the method's step hooks."""
        for parameter in self.parameters:
            parameter.grad = None
        # Fused, because the plain step reads a counter with .item(), which fake tensors do not support.
        self.optimizer = torch.optim.Adam(
            [{"params": list(group.parameters), "lr": group.lr} for group in self.groups], fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        for hook in self.hooks:
            hook.reset()

    def set_progress(self, step: int, progress: float) -> None:
        """Set the learning rates of a step: linear warm-up, then constant, or linear to zero over the budget.

        Args:
            step: steps done so far.
            progress: share of the budget that is spent, 0 to 1.
        """
        factor = min(1.0, (step + 1) / max(1, self.config.lr_warmup_steps))
        if self.config.lr_schedule == "linear":
            factor = min(factor, 1.0 - progress)
        for group, entry in zip(self.groups, self.optimizer.param_groups, strict=True):
            entry["lr"] = group.lr * factor

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of mixed precision with 32-bit weights; no-op for fp32."""
        return autocast(self.precision, self.device)

    def transfer(self, batch: Batch, inputs: dict[str, Tensor], log_popularity: NDArray[np.float32]) -> TrainBatch:
        """Move a batch and the inputs of its items to the device; on CUDA the host does not wait for the copies."""

        def move(tensor: Tensor) -> Tensor:
            if self.device.type != "cuda":
                return tensor.to(self.device)
            return tensor.pin_memory().to(self.device, non_blocking=True)

        return TrainBatch(
            {key: move(value) for key, value in inputs.items()},
            move(torch.from_numpy(batch.items)),
            move(torch.from_numpy(batch.positions)),
            move(torch.from_numpy(log_popularity[batch.unique])),
        )

    def forward(self, batch: TrainBatch) -> Tensor:
        """Compute the loss of a batch."""
        with self.autocast():
            return self.model(batch)

    def objective(self, loss: Tensor) -> Tensor:
        """Objective that is minimised: the loss plus the penalties of the method's step hooks."""
        penalties = [hook.penalty() for hook in self.hooks]
        return sum((penalty for penalty in penalties if penalty is not None), loss)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the trained parameters."""
        self.scaler.scale(self.objective(loss)).backward()

    def update(self, number: int = 0, of: int = 0) -> Tensor:
        """Clip the gradients, update the weights and free the gradients.

        Args:
            number, of: step and number of steps, as in :class:`methods.base.Step`.

        Returns:
            Norm of the gradients before clipping.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for hook in self.hooks:
            # Read in training only: under fake tensors a norm has no value.
            updated = not (number and self.scaler.is_enabled()) or bool(norm.isfinite())
            hook.after(Step(number, of, updated))
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def step(self, batch: TrainBatch) -> Tensor:
        """Run one whole step without a clock; return the loss."""
        loss = self.forward(batch)
        self.backward(loss)
        self.update()
        return loss.detach()

    def state(self) -> list[Tensor]:
        """Copy the trained values to the host."""
        return [p.detach().to("cpu", copy=True) for p in self.parameters]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Set the trained values to a copy made by :meth:`state`."""
        for parameter, value in zip(self.parameters, state, strict=True):
            parameter.copy_(value)


@dataclass
class Training:
    """Progress of a training; with the trainer's state and torch's random state it determines the next step.

    Attributes:
        curve: one entry per evaluation.
        best: index into ``curve`` of the best validation HR@10, the first of equals; -1 before the first.
        best_state: trained values at ``best``, on the host.
        losses: loss of every step.
        seconds: seconds of training, without evaluations.
        skipped: number of last steps in a row that the loss scaler skipped because a gradient was not finite.
    """

    curve: list[Evaluation] = field(default_factory=list)
    best: int = -1
    best_state: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0

    def check(self, norm: float, epoch: int, scaled: bool) -> None:
        """Check that the last step was finite.

        Args:
            norm: gradient norm of the step, before clipping.
            epoch: epoch of the step.
            scaled: True if there is a loss scaler, which skips steps with infinite gradients and halves its scale.

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


@dataclass(frozen=True)
class TrainingData:
    """Data for the training loop.

    Attributes:
        batches: the batches that are still to come, in order.
        feed: gathers the inputs of the items of a batch.
        log_popularity: logarithm of each item's popularity in the training interactions, (items,).
    """

    batches: Iterator[Batch]
    feed: ItemFeed
    log_popularity: NDArray[np.float32]


class TrainingHooks:
    """Calls that the loop makes outside its clock; these defaults do nothing.

    Attributes:
        clock: times steps and phases.
    """

    def __init__(self, clock: StepClock):
        self.clock = clock

    def paused(self) -> AbstractContextManager[Any]:
        """Context of work that is no training: the calls below, and copies of the trained values."""
        return nullcontext()

    def validate(self) -> tuple[float, float]:
        """Return validation HR@10 and NDCG@10 of the model's current weights; NaN is unknown."""
        return math.nan, math.nan

    def observe(self) -> Observed:
        """Return values of the method to record with an evaluation."""
        return {}

    def evaluated(self) -> None:
        """Called when an evaluation has been added to the training's curve."""

    def report(self, event: dict[str, Any]) -> None:
        """Called with an event after every step and every evaluation."""


def train(
    trainer: Trainer, data: TrainingData, budget: Budget, hooks: TrainingHooks, training: Training | None = None
) -> None:
    """Train until the budget is spent, then restore the trained values of the epoch with the best validation HR@10.

    Args:
        trainer: model and optimizer.
        data: batches and inputs.
        budget: epochs, steps or seconds of training.
        hooks: validation, observers and the clock.
        training: progress so far; updated after every step. None starts a new training.

    Raises:
        Diverged: the loss or the gradient norm is not finite.
    """
    done = Training() if training is None else training
    clock = hooks.clock
    trainer.model.train()

    def load() -> TrainBatch:
        batch = next(data.batches)
        return trainer.transfer(batch, data.feed.gather(batch.unique), data.log_popularity)

    progress = budget.progress(len(done.losses), done.seconds)
    with Prefetch(load, trainer.device) as batches:
        while progress < 1.0:
            trainer.set_progress(len(done.losses), progress)
            epoch = len(done.losses) // budget.steps_per_epoch + 1
            started = time.perf_counter()
            with clock.step(epoch, len(done.losses) + 1):
                with clock.phase("data"):
                    batch = batches.take()
                with clock.phase("transfer"):
                    batches.receive(batch)
                with clock.phase("forward"):
                    loss = trainer.forward(batch)
                with clock.phase("backward"):
                    trainer.backward(loss)
                with clock.phase("optimizer"):
                    norm = trainer.update(len(done.losses) + 1, budget.limit_steps or 0)
            elapsed = clock.rows[-1]["seconds"] if clock.enabled else time.perf_counter() - started
            assert elapsed is not None  # a finished step has its seconds
            done.seconds += elapsed
            done.losses.append(loss.item())
            done.check(norm.item(), epoch, trainer.scaler.is_enabled())
            progress = budget.progress(len(done.losses), done.seconds)
            event = {"event": "step", "progress": progress, "loss": done.losses[-1], "train_seconds": done.seconds}
            hooks.report(event)
            if budget.evaluate_after(len(done.losses), spent=progress >= 1.0):
                with hooks.paused():
                    _evaluate(trainer, done, epoch, hooks)
    with hooks.paused():
        trainer.restore(done.best_state)


def _evaluate(trainer: Trainer, done: Training, epoch: int, hooks: TrainingHooks) -> None:
    """Add a point to the curve, and keep the trained values if validation HR@10 is the best so far."""
    hr, ndcg = hooks.validate()
    since = done.curve[-1].step if done.curve else 0
    loss = float(np.mean(done.losses[since:]))
    done.curve.append(Evaluation(epoch, len(done.losses), done.seconds, loss, hr, ndcg, hooks.observe()))
    if done.best < 0 or hr > done.curve[done.best].valid_hr:
        done.best, done.best_state = len(done.curve) - 1, trainer.state()
    hooks.report({"event": "evaluation", "epoch": epoch, "valid_hr@10": hr, "loss": loss})
    hooks.evaluated()
