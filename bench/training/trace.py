"""A trace of some training steps, for Perfetto or Chrome's tracing view, on steps that no clock sees.

A profiler makes steps slower and, on CUDA, can leave its hooks in the driver after it has been stopped; its events take
host memory too. So the traced steps come after everything else has been measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from bench.data.batches import Batch
from bench.measure.clock import StepClock
from bench.models.inputs import ItemFeed
from bench.records.columns import Phase
from bench.records.record import write_trace
from bench.training.budget import Budget
from bench.training.loop import Trainer, train


class _Labels(StepClock):
    """Stands where the clock stands in the loop: instead of timing a phase it names it in the trace."""

    def __init__(self, device: torch.device, profiler: Any) -> None:
        super().__init__(device, enabled=False)
        self._profiler = profiler

    @contextmanager
    def step(self, epoch: int, step: int) -> Iterator[None]:
        yield
        self._profiler.step()

    def phase(self, name: Phase) -> AbstractContextManager[None]:
        return record_function(name)


def trace_steps(
    trainer: Trainer,
    batches: Iterator[Batch],
    feed: ItemFeed,
    log_popularity: NDArray[np.float32],
    count: int,
    folder: Path,
) -> None:
    """Runs one step for the profiler to settle and ``count`` traced ones, and leaves ``trace.json`` in the folder.

    The steps are those of the training loop itself, each phase under its name. They change the model.

    Args:
        batches: at least ``count`` + 1.
        count: number of traced steps, at least 1.

    Raises:
        UserError: when the trace cannot be written.
    """
    activities = [ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    steps = count + 1
    with profile(activities=activities, schedule=schedule(wait=0, warmup=1, active=count, repeat=1)) as profiler:
        train(
            trainer,
            islice(batches, steps),
            feed,
            log_popularity,
            Budget(limit_steps=steps, limit_seconds=None, steps_per_epoch=steps),
            _Labels(trainer.device, profiler),
            validate=lambda: (0.0, 0.0),
            report=lambda _: None,
        )
    write_trace(folder, profiler.export_chrome_trace)
