"""When training ends: after epochs, steps or seconds of training, whichever the matrix names."""

from __future__ import annotations

from dataclasses import dataclass

from bench.training.config import BudgetConfig


@dataclass(frozen=True)
class Budget:
    """The budget of a cell.

    Attributes:
        limit_steps: None for a budget in seconds.
        limit_seconds: of training alone; None otherwise.
        steps_per_epoch: optimizer steps of a pass over all users.
    """

    limit_steps: int | None
    limit_seconds: float | None
    steps_per_epoch: int

    @classmethod
    def of(cls, config: BudgetConfig, steps_per_epoch: int) -> Budget:
        """The budget in steps or seconds."""
        steps = config.epochs * steps_per_epoch if config.epochs is not None else config.steps
        return cls(steps, config.seconds, steps_per_epoch)

    def progress(self, steps: int, seconds: float) -> float:
        """How much of it is spent, 0 to 1."""
        if self.limit_steps is not None:
            return min(1.0, steps / self.limit_steps)
        assert self.limit_seconds is not None
        return min(1.0, seconds / self.limit_seconds)

    def evaluate_after(self, steps: int, spent: bool) -> bool:
        """At the end of every epoch, and at the end of the budget."""
        return spent or steps % self.steps_per_epoch == 0
