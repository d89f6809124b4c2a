"""Budget of a training: a number of epochs, of steps or of seconds."""

from __future__ import annotations

from dataclasses import dataclass

from bench.training.config import BudgetConfig


@dataclass(frozen=True)
class Budget:
    """Budget of a cell, in steps or in seconds.

    Attributes:
        limit_steps: number of optimizer steps; None for a budget in seconds.
        limit_seconds: seconds of training, without evaluations and set-up; None for a budget in steps.
        steps_per_epoch: optimizer steps of a pass over all users.
    """

    limit_steps: int | None
    limit_seconds: float | None
    steps_per_epoch: int

    @classmethod
    def of(cls, config: BudgetConfig, steps_per_epoch: int) -> Budget:
        """Make a budget from its configuration; epochs are converted to steps."""
        steps = config.epochs * steps_per_epoch if config.epochs is not None else config.steps
        return cls(steps, config.seconds, steps_per_epoch)

    def progress(self, steps: int, seconds: float) -> float:
        """Share of the budget that is spent, 0 to 1.

        Args:
            steps: number of steps done.
            seconds: seconds of training so far.
        """
        if self.limit_steps is not None:
            return min(1.0, steps / self.limit_steps)
        assert self.limit_seconds is not None
        return min(1.0, seconds / self.limit_seconds)

    def evaluate_after(self, steps: int, spent: bool) -> bool:
        """True if the model has to be evaluated after this number of steps: at the end of an epoch or of the budget."""
        return spent or steps % self.steps_per_epoch == 0
