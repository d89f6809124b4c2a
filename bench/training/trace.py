"""Trace of some untimed training steps, for Perfetto or Chrome's tracing view.

A profiler makes steps slower, and its events take host memory. On CUDA it can leave its hooks in the driver after it
has been stopped. Therefore the traced steps run after all measurements.
"""

from __future__ import annotations

import json
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
from bench.training.gpu_busy import gpu_busy_share
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


def trace_steps(trainer: Trainer, data: TrainingData, count: int, folder: Path) -> dict[str, float | int | None]:
    """Run one step to warm up the profiler, then ``count`` traced steps, and write ``trace.json`` into the folder.

    The steps are run by the training loop, with the names of its phases. They change the model.

    Args:
        trainer: model and optimizer.
        data: data with at least ``count`` + 1 batches.
        count: number of traced steps, at least 1.
        folder: folder of the cell.

    Returns:
        Entry of the record: the number of traced steps, and ``gpu_busy_share`` as of :func:`gpu_busy_share`, None on a
        CPU.

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
    path = write_trace(folder, profiler.export_chrome_trace)
    events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"] if trainer.device.type == "cuda" else ()
    return {"steps": count, "gpu_busy_share": gpu_busy_share(events)}
