"""Probe of a training step for memory and FLOPs; it measures a cell and, on fake tensors, plans it."""

from __future__ import annotations

from bench.measure.flops import Flops, count_flops
from bench.measure.memory import MemoryAccount, account
from bench.models.recommender import TrainBatch
from bench.training.loop import Trainer


def probe(trainer: Trainer, batch: TrainBatch) -> tuple[MemoryAccount, Flops]:
    """Measure memory and FLOPs of a training step.

    FLOPs are counted in a first step with a fresh optimizer. Memory is measured in a second step, when Adam's moments
    exist as in all later steps. Both steps change the model.
    """
    trainer.reset_optimizer()
    trainer.model.train()
    flops = count_flops(lambda: trainer.scaler.scale(trainer.objective(trainer.forward(batch))))
    trainer.update()
    return step_account(trainer, batch), flops


def step_account(trainer: Trainer, batch: TrainBatch, steps: int = 1) -> MemoryAccount:
    """Measure the memory of one or more further steps."""
    return account(
        lambda: trainer.step(batch),
        modules=[trainer.model],
        optimizer=trainer.optimizer,
        known={"rest": [*batch.inputs.values(), batch.items, batch.positions, batch.log_popularity]},
        device=trainer.device,
        steps=steps,
    )
