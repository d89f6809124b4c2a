"""A trace of some training steps, for Perfetto or Chrome's tracing view, on steps that no clock sees.

A profiler makes steps slower and, on CUDA, can leave its hooks in the driver after it has been stopped; its events take
host memory too. So the traced steps come after everything else has been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from bench.measure.clock import StepClock
from bench.records.columns import Phase
from bench.records.record import write_trace
from bench.training.budget import Budget
from bench.training.loop import Trainer, TrainingData, TrainingHooks, train


class _Labels(StepClock):
    """Clock of the loop that names phases in the trace instead of timing them."""

    def __init__(self, device: torch.device, profiler: Any) -> None:
        super().__init__(device, enabled=False)
        self._profiler = profiler

    @contextmanager
    def step(self, epoch: int, step: int) -> Iterator[None]:
        yield
        self._profiler.step()

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        return record_function(name)


def trace_steps(trainer: Trainer, data: TrainingData, count: int, folder: Path) -> None:
    """Runs one step to settle the profiler, then ``count`` traced steps, and writes ``trace.json`` into the folder.

    The steps are those of the training loop itself, each phase under its name. They change the model.

    Args:
        trainer: model and optimizer.
        data: at least ``count`` + 1 batches.
        count: number of traced steps, at least 1.
        folder: of the cell.

    Raises:
        UserError: the trace cannot be written.
    """
    activities = [ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    steps = count + 1
    with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=count, repeat=1)) as profiler:
        train(
            trainer,
            replace(data, batches=islice(data.batches, steps)),
            Budget(limit_steps=steps, limit_seconds=None, steps_per_epoch=steps),
            TrainingHooks(_Labels(trainer.device, profiler)),
        )
    write_trace(folder, profiler.export_chrome_trace)
