"""One cell from its configuration to its record: a list of phases, each timed, in the order of the paper's protocol.

It runs in a process of its own (``bench.launch.worker``). Progress goes to standard output as JSON lines; the record is
written to the cell's folder, also if the cell fails.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cell.assemble import assemble, feed_of_items
from bench.cell.checkpoint import Checkpoints
from bench.cell.checkpoint_files import remove_checkpoints
from bench.cell.failure import Failure, classify_failure, failure_record, plan_beside
from bench.cell.result import accuracy_columns, progress_entries, record_of, save_ranks, size_columns
from bench.cell.sanity_checks import check_sanity
from bench.cell.saved_weights import save_adapters
from bench.cell.state import CellState, Report
from bench.config.cells import Cell
from bench.config.method_files import load_recorded
from bench.data.batches import (
    Batch,
    all_batches,
    batch_digest,
    largest_batch,
    log_popularity,
    make_batch,
    median_batch,
    smallest_batch,
    steps_per_epoch,
)
from bench.data.datasets import load_new_items
from bench.measure.clock import step_warnings
from bench.measure.flops import count_flops
from bench.measure.memory import reset_allocator_peaks, return_unused_memory
from bench.measure.operators import count_operators
from bench.measure.training_meters import MeterReadings, TrainingMeters
from bench.models.loading.check_encoder import check_encoder
from bench.models.loading.describe import tower
from bench.models.recommender import TrainBatch
from bench.records.record import one_line, write_record, write_steps
from bench.training.attributes import attributes_held
from bench.training.budget import Budget
from bench.training.evaluate import accuracy, evaluate
from bench.training.loop import Trainer, TrainingData, TrainingHooks, train
from bench.training.probe import probe
from bench.training.trace import trace_steps
from bench.utils.errors import UserError
from methods.base import Observed

CHECKED_USERS = 8
Ranks = NDArray[np.int64]


class CellRun(CellState):
    """Phases of a cell; each reads the results of earlier phases from the state and adds its own."""

    def run(self) -> dict[str, Any]:
        """Run all phases in their order; return the record."""
        torch.backends.cuda.enable_cudnn_sdp(self.cell.training.cudnn_attention)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        for name, phase in PHASES:
            self.report({"event": "phase", "phase": name})
            started = time.perf_counter()
            try:
                phase(self)
            finally:
                self.phase_seconds[name] = time.perf_counter() - started
        return record_of(self)

    def assemble(self) -> None:
        """Load data and encoders, open or build the hidden-state cache, build the model and its optimizer."""
        assembly = assemble(self.cell, self.device, self._cache_progress)
        self.trainer = Trainer(assembly.model, assembly.groups, self.cell.training, self.cell.precision, self.device)
        self.assembly, self.start = assembly, self.trainer.state()
        self.row |= size_columns(self.cell, assembly)
        self.warnings += [f"cache file {cache.warning}" for cache in assembly.caches.values() if cache.warning]

    def check(self) -> None:
        """Run the sanity checks on a small batch, then restore the model."""
        batch = self._batch(make_batch(self.assembly.data.splits.train[:CHECKED_USERS]))
        self.assembly.model.train()
        self.trainer.set_progress(self.cell.training.lr_warmup_steps, 0.0)

        def step(batch: TrainBatch) -> Tensor:
            self.alive()
            return self.trainer.step(batch)

        for encoder in self.assembly.encoders:
            check_encoder(encoder, batch.inputs)
        assembly = self.assembly
        self.checks = check_sanity(
            assembly.model,
            step,
            batch,
            self.trainer.parameters,
            assembly.adapted,
            partial(tower, assembly.data.sources),
        )
        self._start_over()

    def probe(self) -> None:
        """Count memory and FLOPs of a step on the largest batch, and operators and FLOPs of one on the median batch."""
        self.memory, flops = probe(self.trainer, self._batch(largest_batch(*self._batching)))
        self.row |= {"flops_forward": flops.forward, "flops_backward": flops.backward}
        median = median_batch(*self._batching)
        batch = self._batch(median)
        self.operators = count_operators(lambda: self.trainer.step(batch))
        self.median_work = count_flops(lambda: self.trainer.objective(self.trainer.forward(batch))), len(median.unique)
        self._start_over()

    def warm_up(self) -> None:
        """Run untimed steps, compiled if the cell asks for it, then restore the model.

        The memory of the checks and probes is given back first. The last step is that of the largest batch: when the
        peaks are reset after it, the allocator holds what training needs, and timed steps need not ask the driver.
        """
        return_unused_memory(self.device)
        self.compiler.compile(self.assembly.model, self.assembly.encoders)
        largest = largest_batch(*self._batching)
        batches: Iterable[Batch] = islice(all_batches(*self._batching), self.cell.training.timing_warmup_steps)
        if self.compiler.on:
            # A compiled graph is valid between bounds of the sizes; these two batches are the extremes.
            batches = chain((largest, smallest_batch(*self._batching)), batches)
        batches = chain(batches, (largest,))
        with self.compiler.running():
            for batch in batches:
                self.trainer.step(self._batch(batch))
                self.alive()
        self.compiler.end_warm_up()
        self._start_over()

    def train(self) -> None:
        """Train under clock and meters; resume from a checkpoint if there is one."""
        del self.start
        # All methods get the same dropout masks, however many random numbers their checks and probes drew.
        torch.manual_seed(self.cell.seed)
        splits = self.assembly.data.splits
        epoch_steps = steps_per_epoch(len(splits.train), self.cell.budget.batch_size)
        checkpoints = Checkpoints(self.cell, self.folder, batch_digest(*self._batching), epoch_steps)
        self.meters = TrainingMeters(self.device, self._resume(checkpoints))
        reset_allocator_peaks(self.device)
        data = self._training_data(done=len(self.training.losses))
        watches = [self.clock.watch(encoder) for encoder in self.assembly.encoders]
        try:
            with self.meters, self.compiler.running():
                budget = Budget.of(self.cell.budget, epoch_steps)
                train(self.trainer, data, budget, CellHooks(self, checkpoints), self.training)
        finally:
            for watch in watches:
                watch.remove()
        self.warnings += checkpoints.warnings

    def test(self) -> None:
        """Rank the test targets with the model of the chosen epoch, unless the cell is a trial of a search."""
        splits = self.assembly.data.splits
        ranks = None
        if self.cell.test:
            ranks = self.ranks(splits.test_inputs, splits.test_target, splits.test_history)
        save_ranks(self.folder, self.assembly, self.best_ranks, ranks)
        self.row |= accuracy_columns(self.training.curve[self.training.best], ranks, splits.test_seen)
        self.readings = self.meter_readings()
        self.warnings += [*self.readings.warnings, *step_warnings(self.clock.rows)]
        write_steps(self.folder, self.clock.rows, self.training.losses)

    def probe_attributes(self) -> None:
        """Measure which attributes the vectors of new items hold, if the dataset knows attributes and accuracy counts.

        A failure is a warning; the measurements are kept.
        """
        if not self.cell.test or self.cell.backbones.weights == "random":
            return
        try:
            if (new_items := load_new_items(self.cell.dataset)) is None:
                return
            catalogue, labels = new_items
            feed = feed_of_items(self.cell, self.assembly.data, catalogue, self.device)
            with self.trainer.autocast(), self.compiler.eager():
                self.attributes = attributes_held(self.assembly.model, feed, labels, self.device, self.alive)
        except (UserError, OSError, RuntimeError, ValueError) as error:
            self.warnings.append(f"attributes were not probed: {one_line(str(error))}")

    def save_weights(self) -> None:
        """Write the trained weights of the chosen epoch, if the cell asks for them.

        A failure is a warning; the measurements are kept.
        """
        if not self.cell.save_adapters:
            return
        try:
            save_adapters(self.cell, self.assembly.model.item_encoder, self.assembly.data.sources, self.folder)
        except (UserError, OSError, RuntimeError, ValueError) as error:
            self.warnings.append(f"no adapters written: {one_line(str(error))}")

    def trace(self) -> None:
        """Write a trace of some further steps, if the cell asks for it; a failure is a warning."""
        if self.cell.profile is None:
            return
        try:
            self.traced = trace_steps(self.trainer, self._training_data(), self.cell.profile, self.folder)
        except (UserError, RuntimeError) as error:
            self.warnings.append(f"no trace written: {one_line(str(error))}")

    def predict(self) -> None:
        """Plan the cell on fake tensors, so that the record has prediction and measurement."""
        self.plan = plan_beside(self.cell)

    def ranks(self, inputs: NDArray[np.int32], targets: NDArray[np.int32], history: NDArray[np.int32]) -> Ranks:
        """Ranks of targets among all items, (users,); the arrays are those of a part of ``Splits``."""
        model, feed, n_items = self.assembly.model, self.assembly.feed, self.assembly.data.n_items
        with self.trainer.autocast(), self.compiler.eager():
            return evaluate(model, feed, inputs, targets, history, n_items, self.device, self.alive)

    def meter_readings(self) -> MeterReadings:
        """Readings of the meters so far, with the compiler's warnings."""
        readings = self.meters.readings()
        return replace(readings, warnings=(*readings.warnings, *self.compiler.warnings))

    def failed(self, cause: Failure) -> dict[str, Any]:
        """Record of a cell that did not end ok, with its progress; ``steps.csv`` is written too."""
        self.release()
        losses = self.training.losses
        rows = self.clock.rows[: len(losses)]  # a step that failed when its loss was read has a row and no loss
        if rows:
            write_steps(self.folder, rows, losses)
        return failure_record(self.cell, cause) | progress_entries(self)

    @property
    def _batching(self) -> tuple[Any, int, int]:
        """Splits, users per step and seed: arguments of the functions in ``bench.data.batches``."""
        return self.assembly.data.splits, self.cell.budget.batch_size, self.cell.seed

    def _batch(self, batch: Batch) -> TrainBatch:
        inputs = self.assembly.feed.gather(batch.unique)
        return self.trainer.transfer(batch, inputs, log_popularity(self.assembly.data.splits))

    def _training_data(self, done: int = 0) -> TrainingData:
        """Training data whose first batch is the one after ``done`` steps."""
        batches = all_batches(*self._batching, done)
        return TrainingData(batches, self.assembly.feed, log_popularity(self.assembly.data.splits))

    def _start_over(self) -> None:
        """Restore the initial trained values and reset the optimizer."""
        self.trainer.restore(self.start)
        self.trainer.reset_optimizer()

    def _cache_progress(self, modality: str, done: int, total: int) -> None:
        self.report({"event": "cache", "modality": modality, "done": done, "total": total})

    def _resume(self, checkpoints: Checkpoints) -> MeterReadings | None:
        """Resume from a checkpoint if there is one; return the readings of the meters until then."""
        saved = checkpoints.resume(self.trainer)
        if saved is None:
            return None
        self.training, self.best_ranks = saved.training, saved.ranks
        self.clock.rows.extend(saved.rows)
        count, last = checkpoints.count, saved.training.curve[-1]
        self.resumed = {"times": count.times, "steps_lost": count.lost, "at_step": last.step, "at_epoch": last.epoch}
        self.report({"event": "resumed", "epoch": last.epoch, "step": last.step})
        return saved.readings


PHASES: tuple[tuple[str, Callable[[CellRun], None]], ...] = (
    ("assemble", CellRun.assemble),
    ("sanity checks", CellRun.check),
    ("probe", CellRun.probe),
    ("warm up", CellRun.warm_up),
    ("train", CellRun.train),
    ("test", CellRun.test),
    ("attributes", CellRun.probe_attributes),
    ("save weights", CellRun.save_weights),
    ("trace", CellRun.trace),
    ("plan", CellRun.predict),
)
"""Phases of a cell in their order. Only the steps of "train" are timed; the record is written after the last phase."""


class CellHooks(TrainingHooks):
    """Validation, checkpoints and progress of a cell's training; the meters are paused meanwhile."""

    def __init__(self, run: CellRun, checkpoints: Checkpoints):
        super().__init__(run.clock)
        self.run, self.checkpoints = run, checkpoints

    def paused(self) -> AbstractContextManager[None]:
        """Pause the meters."""
        return self.run.meters.paused()

    def validate(self) -> tuple[float, float]:
        """Rank the validation targets; return HR@10 and NDCG@10."""
        run, splits = self.run, self.run.assembly.data.splits
        run.last_ranks = run.ranks(splits.valid_inputs, splits.valid_target, splits.valid_history)
        valid = accuracy(run.last_ranks)
        return valid.hr, valid.ndcg

    def observe(self) -> Observed:
        """Values that the method reports, such as gates."""
        return self.run.assembly.model.item_encoder.observe()  # type: ignore[operator]

    def evaluated(self) -> None:
        """Keep the ranks of the best epoch, and write a checkpoint if one is due."""
        run, training = self.run, self.run.training
        if training.best == len(training.curve) - 1:
            run.best_ranks = run.last_ranks
        if self.checkpoints.is_due(training.curve[-1]):
            self.checkpoints.save(run.trainer, training, run.clock.rows, run.best_ranks, run.meter_readings())
            run.report({"event": "checkpoint", "step": len(training.losses)})

    def report(self, event: dict[str, Any]) -> None:
        """Count the steps for the checkpoints and pass the event on."""
        self.checkpoints.count_steps(len(self.run.training.losses))
        self.run.report(event)


def run_cell(cell: Cell, folder: Path, report: Report, start_seconds: float | None = None) -> dict[str, Any]:
    """Run a cell, write its record (also if the cell fails), remove its checkpoints, and return the record.

    Args:
        cell: cell to run.
        folder: folder of the cell.
        report: called with every event.
        start_seconds: seconds that the start of this process took with its imports; None if unknown.
    """
    folder.mkdir(exist_ok=True)  # without parents: a run folder that was deleted during the run is not made again
    run, cause = CellRun(cell, folder, report), None
    if start_seconds is not None:
        run.phase_seconds["start"] = start_seconds
    try:
        if cell.method_file is not None:
            load_recorded(cell.method_file)
        record = run.run()
    except Exception as error:
        traceback.print_exc()
        cause = classify_failure(error, run.device)
    # Outside the handler: the exception and its frames are dropped, and with them all that the cell held in memory.
    if cause is not None:
        record = run.failed(cause)
    write_record(folder, record)
    remove_checkpoints(folder)
    return record


def main(arguments: Sequence[str]) -> None:
    """Run the cell of a JSON file; ``bench.launch.worker`` calls it.

    Args:
        arguments: path of the JSON file, the folder of the cell, and the reading of ``time.monotonic`` at which the
            process was asked for, if that is known.
    """
    spec, folder, *requested = arguments
    start_seconds = time.monotonic() - float(requested[0]) if requested else None

    def report(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    record = run_cell(Cell.from_json(Path(spec).read_text(encoding="utf-8")), Path(folder), report, start_seconds)
    report({"event": "end", "status": record["row"]["status"], "error": record["row"]["error"]})
