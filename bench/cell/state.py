"""State of a cell while its phases run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cell.assemble import Assembly
from bench.config.cells import Cell
from bench.measure.clock import StepClock
from bench.measure.flops import Flops
from bench.measure.memory import MemoryAccount
from bench.measure.training_meters import MeterReadings, TrainingMeters
from bench.records.record import empty_row
from bench.training.compile import StepCompiler
from bench.training.loop import Trainer, Training

Report = Callable[[dict[str, Any]], Any]


class CellState:
    """State that the phases of a cell share.

    Attributes:
        cell: cell that runs.
        folder: folder of the cell.
        report: called with every event of the cell's progress.
        device: device of the cell.
        row: columns of results.csv, filled as they become known.
        alive: heartbeat, called after every unit of work.
        warnings: for the reader of the report.
        phase_seconds: phase -> wall-clock seconds, for the phases that have begun; "start" is that of the process.
        training: progress of the training; saved by checkpoints.
        clock: times of steps and phases.
        compiler: compiles the training step if the cell asks for it.
        checks: results of the sanity checks.
        attributes: what linear probes read from the vectors of new items, by attribute; None if it was not probed.
        traced: number of traced steps and the GPU's busy share in them; None without a trace.
        plan: prediction for the cell; None before its phase, or if the cell could not be planned.
        resumed: number of resumes, steps lost, and position of the last resume; None if the cell was not resumed.
        last_ranks, best_ranks: ranks of the validation targets, (validated,), at the last and at the best evaluation.

    Set by a phase:
        assembly: model and data.
        trainer: model with its optimizer.
        start: trained values before any step, on the host; dropped when training begins.
        memory: memory account of a step on the largest batch.
        median_work: FLOPs and number of distinct items of a step on the median batch.
        operators: number of operators of a step on the median batch.
        meters: meters that run during training.
        readings: readings of the meters at the end of training.
    """

    assembly: Assembly
    trainer: Trainer
    start: list[Tensor]
    memory: MemoryAccount
    median_work: tuple[Flops, int]
    operators: int
    meters: TrainingMeters
    readings: MeterReadings

    def __init__(self, cell: Cell, folder: Path, report: Report):
        self.cell = cell
        self.folder = folder
        self.report = report
        self.device = torch.device(cell.device)
        self.row = empty_row(cell)
        self.alive = Heartbeat(report)
        self.warnings: list[str] = []
        self.phase_seconds: dict[str, float] = {}
        self.training = Training()
        self.clock = StepClock(self.device)
        self.compiler = StepCompiler(cell.training.compile, self.alive)
        self.checks: dict[str, object] = {}
        self.attributes: dict[str, dict[str, float]] | None = None
        self.traced: dict[str, float | int | None] | None = None
        self.plan: dict[str, Any] | None = None
        self.resumed: dict[str, Any] | None = None
        self.last_ranks: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.best_ranks: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def release(self) -> None:
        """Drop model, data, optimizer and meters, so that their memory is freed."""
        for name in ("assembly", "trainer", "start", "meters"):
            self.__dict__.pop(name, None)


INTERVAL = 1.0


class Heartbeat:
    """Rate-limited liveness event, at most one per second; call it after each unit of work.

    It has no thread: a thread would report life even when the work hangs.

    Args:
        report: called with the event.
        now: clock, in seconds.
    """

    def __init__(self, report: Callable[[dict[str, Any]], Any], now: Callable[[], float] = monotonic):
        self._report, self._now = report, now
        self._last = now()

    def __call__(self) -> None:
        """Report the event, unless the last one is less than ``INTERVAL`` seconds old."""
        now = self._now()
        if now - self._last >= INTERVAL:
            self._last = now
            self._report({"event": "alive"})
