"""State of a cell while its phases run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cell.assemble import Assembly
from bench.cell.heartbeat import Heartbeat
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
    """Everything that the phases of a cell hand on to each other.

    Attributes:
        report: called with every event of the cell's progress.
        row: columns of results.csv, filled as they become known.
        alive: heartbeat, called after every unit of work.
        warnings: for the reader of the report.
        phase_seconds: phase -> wall-clock seconds, for the phases that have begun.
        training: progress of the training; saved by checkpoints.
        checks: results of the sanity checks.
        plan: prediction for the cell; None if it could not be planned.
        resumed: how often the cell was resumed and what that lost; None if it never was.
        last_ranks, best_ranks: ranks of the validation targets, (validated,), at the last and at the best evaluation.

    Set by a phase:
        assembly, trainer: model, data and optimizer.
        start: trained values before any step, on the host; until training begins.
        memory: account of a step on the largest batch.
        median_work: FLOPs and distinct items of a step on the median batch.
        meters, readings: around the training, and what they read at its end.
    """

    assembly: Assembly
    trainer: Trainer
    start: list[Tensor]
    memory: MemoryAccount
    median_work: tuple[Flops, int]
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
        self.plan: dict[str, Any] | None = None
        self.resumed: dict[str, Any] | None = None
        self.last_ranks: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.best_ranks: NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def release(self) -> None:
        """Drops model, data and optimizer, so that their memory is free."""
        for name in ("assembly", "trainer", "start", "meters"):
            self.__dict__.pop(name, None)
