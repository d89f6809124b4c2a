"""The probe of a training step: the same code measures a cell and, on fake tensors, plans it."""

from __future__ import annotations

from bench.measure.flops import Flops, count_flops
from bench.measure.memory import MemoryAccount, account
from bench.models.recommender import TrainBatch
from bench.training.loop import Trainer


def probe(trainer: Trainer, batch: TrainBatch) -> tuple[MemoryAccount, Flops]:
    """Memory account and FLOPs of a step with a fresh optimizer.

    The operations are counted in a first step. It leaves Adam's moments behind, so that the account of the second one
    is that of every later step.
    """
    trainer.reset_optimizer()
    trainer.model.train()
    flops = count_flops(lambda: trainer.scaler.scale(trainer.objective(trainer.forward(batch))))
    trainer.update()
    return step_account(trainer, batch), flops


def step_account(trainer: Trainer, batch: TrainBatch, steps: int = 1) -> MemoryAccount:
    """Memory account of one more step, or of several."""
    return account(
        lambda: trainer.step(batch),
        modules=[trainer.model],
        optimizer=trainer.optimizer,
        known={"rest": [*batch.inputs.values(), batch.items, batch.positions, batch.log_popularity]},
        device=trainer.device,
        steps=steps,
    )
