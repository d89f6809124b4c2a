"""One cell, from start to record. Runs in a process of its own (``bench.launch.worker``).

Progress goes to standard output as JSON lines; the record goes to FOLDER, whatever happens.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cell.assemble import Assembly, assemble
from bench.cell.checkpoint import Checkpoints
from bench.cell.checkpoint_files import remove_checkpoints
from bench.cell.failure import Outcome, failure_record, outcome_of, plan_beside
from bench.cell.heartbeat import Heartbeat
from bench.cell.sanity_checks import check_gates
from bench.cell.saved_weights import save_adapters
from bench.config.cells import Cell
from bench.config.method_files import load_recorded
from bench.data.batches import (
    Batch,
    all_batches,
    batch_digest,
    epoch_batches,
    largest_batch,
    log_popularity,
    make_batch,
    median_batch,
    smallest_batch,
    steps_per_epoch,
)
from bench.measure import clock as clocks
from bench.measure.derived_costs import cache_cost, compute_rate, epoch_times
from bench.measure.environment import capture
from bench.measure.flops import Flops, count_flops
from bench.measure.memory import MemoryAccount, reset_allocator_peaks
from bench.measure.training_meters import MeterReadings, TrainingMeters, memory_columns
from bench.models.quantisation import count_values
from bench.models.recommender import TrainBatch
from bench.records.record import SCHEMA, empty_row, one_line, write_ranks, write_record, write_steps
from bench.training.budget import Budget
from bench.training.compile import StepCompiler
from bench.training.evaluate import accuracy, evaluate
from bench.training.loop import Trainer, Training, train
from bench.training.probe import probe
from bench.training.trace import trace_steps
from bench.utils.errors import UserError
from methods.base import Observed
from methods.registry import known

GATE_USERS = 8
Report = Any
Ints = NDArray[np.int32]
Ranks = NDArray[np.int64]


class CellRun:
    """The phases of one cell. Each fills its part of the record."""

    def __init__(self, cell: Cell, folder: Path, report: Report):
        self.cell = cell
        self.folder = folder
        self.report = report
        self.device = torch.device(cell.device)
        self.row = empty_row(cell)
        self.alive = Heartbeat(report)
        self.warnings: list[str] = []
        self.training = Training()
        self.clock = clocks.StepClock(self.device)
        self.compiler = StepCompiler(cell.training.compile, self.alive)
        self.resumed: dict[str, Any] | None = None
        # Ranks of the validation targets, (validated,), at the last evaluation and at the best one.
        self.last_ranks = self.best_ranks = np.empty(0, dtype=np.int64)

    def run(self) -> dict[str, Any]:
        """All phases in their order; gives the record."""
        started = time.perf_counter()
        self.report({"event": "phase", "phase": "set-up"})
        assembly = assemble(self.cell, self.device, self._cache_progress)
        trainer = Trainer(assembly.model, assembly.groups, self.cell.training, self.cell.precision, self.device)
        self._describe(assembly)
        self.row["setup_seconds"] = time.perf_counter() - started
        self.report({"event": "phase", "phase": "gates and probes"})
        start = trainer.state()
        gates = self._gates(assembly, trainer)
        memory = self._probe(assembly, trainer)
        typical = self._median_flops(assembly, trainer)
        self.compiler.compile(assembly.model, assembly.encoders)
        self._warm_up(assembly, trainer)
        trainer.restore(start)
        trainer.reset_optimizer()
        # From here on every method draws the same dropout masks, whatever its gates and probes consumed.
        torch.manual_seed(self.cell.seed)
        reset_allocator_peaks(self.device)
        meters = self._train(assembly, trainer)
        if self.cell.test:
            self.report({"event": "phase", "phase": "test"})
        self._conclude(assembly, self._test(assembly, trainer) if self.cell.test else None)
        measured = self._readings(meters)
        # The account is of an eager step: of a compiled one it says nothing.
        self.row |= memory_columns(measured, None if self.compiler.on else memory.peak_bytes)
        self.warnings += [*measured.warnings, *clocks.step_warnings(self.clock.rows)]
        write_steps(self.folder, self.clock.rows, self.training.losses)
        self._save_adapters(assembly)
        self._profile(assembly, trainer)
        return self._record(assembly, gates, memory, measured) | {
            "cache": cache_cost(assembly.caches, self.row["unique_items_per_step"]),
            "compute": compute_rate(*typical, self.row["step_seconds_median"]),
            "plan": plan_beside(self.cell, self.report),
        }

    def _cache_progress(self, modality: str, done: int, total: int) -> None:
        self.report({"event": "cache", "modality": modality, "done": done, "total": total})

    def _batch(self, assembly: Assembly, trainer: Trainer, batch: Batch) -> TrainBatch:
        inputs = assembly.feed.gather(batch.unique)
        return trainer.transfer(batch, inputs, log_popularity(assembly.data.splits))

    def _describe(self, assembly: Assembly) -> None:
        splits, size, seed = assembly.data.splits, self.cell.budget.batch_size, self.cell.seed
        self.row |= {
            "trainable_params": sum(group.count for group in assembly.groups),
            "total_params": count_values(assembly.model.parameters()),
            "unique_items_per_step": float(np.mean([len(b.unique) for b in epoch_batches(splits, size, seed, 1)])),
        }
        if assembly.caches:
            self.row["cache_seconds"] = sum(cache.seconds for cache in assembly.caches.values())
            self.row["cache_bytes"] = sum(cache.size for cache in assembly.caches.values())
            self.warnings += [f"cache file {c.warning}" for c in assembly.caches.values() if c.warning]

    def _gates(self, assembly: Assembly, trainer: Trainer) -> dict[str, object]:
        rows = assembly.data.splits.train[:GATE_USERS]
        batch = self._batch(assembly, trainer, make_batch(rows))
        assembly.model.train()
        trainer.set_progress(self.cell.training.lr_warmup_steps, 0.0)

        def step(batch: TrainBatch) -> Tensor:
            self.alive()
            return trainer.step(batch)

        return check_gates(assembly.model, step, batch, trainer.parameters, assembly.adapted)

    def _probe(self, assembly: Assembly, trainer: Trainer) -> MemoryAccount:
        """Memory account and FLOPs on the largest batch of the first epoch."""
        largest = largest_batch(assembly.data.splits, self.cell.budget.batch_size, self.cell.seed)
        memory, flops = probe(trainer, self._batch(assembly, trainer, largest))
        self.row |= {"flops_forward": flops.forward, "flops_backward": flops.backward}
        return memory

    def _median_flops(self, assembly: Assembly, trainer: Trainer) -> tuple[Flops, int]:
        """FLOPs and distinct items of a step as most are: the columns of the row are of the largest batch."""
        batch = median_batch(assembly.data.splits, self.cell.budget.batch_size, self.cell.seed)
        moved = self._batch(assembly, trainer, batch)
        return count_flops(lambda: trainer.objective(trainer.forward(moved))), len(batch.unique)

    def _save_adapters(self, assembly: Assembly) -> None:
        """What was asked for, at the epoch that validation chose. What is measured by now is not lost with it."""
        if not self.cell.save_adapters:
            return
        try:
            save_adapters(self.cell, assembly.model.item_encoder, assembly.data.sources, self.folder)
        except (UserError, OSError, RuntimeError, ValueError) as error:
            self.warnings.append(f"no adapters: {one_line(str(error))}")

    def _profile(self, assembly: Assembly, trainer: Trainer) -> None:
        """The trace that was asked for. What is measured by now is not lost with it."""
        if self.cell.profile is None:
            return
        self.report({"event": "phase", "phase": "profile"})
        splits = assembly.data.splits
        batches = all_batches(splits, self.cell.budget.batch_size, self.cell.seed)
        try:
            trace_steps(trainer, batches, assembly.feed, log_popularity(splits), self.cell.profile, self.folder)
        except (UserError, RuntimeError) as error:
            self.warnings.append(f"no trace: {one_line(str(error))}")

    def _warm_up(self, assembly: Assembly, trainer: Trainer) -> None:
        of = assembly.data.splits, self.cell.budget.batch_size, self.cell.seed
        batches: Iterable[Batch] = islice(all_batches(*of), self.cell.training.timing_warmup_steps)
        if self.compiler.on:
            self.report({"event": "phase", "phase": "compiling"})
            # A graph holds for sizes between bounds; these are the outermost.
            batches = chain((largest_batch(*of), smallest_batch(*of)), batches)
        with self.compiler.running():
            for batch in batches:
                trainer.step(self._batch(assembly, trainer, batch))
                self.alive()
        self.compiler.settle()

    def _ranks(self, assembly: Assembly, trainer: Trainer, inputs: Ints, targets: Ints, history: Ints) -> Ranks:
        """Of the targets among all items; arrays as those of a part of ``Splits``."""
        with trainer.autocast(), self.compiler.eager():
            return evaluate(
                assembly.model, assembly.feed, inputs, targets, history, assembly.data.n_items, self.device, self.alive
            )

    def _validate(self, assembly: Assembly, trainer: Trainer) -> tuple[float, float]:
        splits = assembly.data.splits
        self.last_ranks = self._ranks(assembly, trainer, splits.valid_inputs, splits.valid_target, splits.valid_history)
        found = accuracy(self.last_ranks)
        return found.hr, found.ndcg

    def _test(self, assembly: Assembly, trainer: Trainer) -> Ranks:
        splits = assembly.data.splits
        return self._ranks(assembly, trainer, splits.test_inputs, splits.test_target, splits.test_history)

    def _train(self, assembly: Assembly, trainer: Trainer) -> TrainingMeters:
        splits, size, seed = assembly.data.splits, self.cell.budget.batch_size, self.cell.seed
        epoch_steps = steps_per_epoch(len(splits.train), size)
        checkpoints = Checkpoints(self.cell, self.folder, batch_digest(splits, size, seed), epoch_steps)
        meters = TrainingMeters(self.device, self._resume(checkpoints, trainer))
        training, clock = self.training, self.clock
        watches = [clock.watch(encoder) for encoder in assembly.encoders]
        self.report({"event": "phase", "phase": "training"})

        def validate() -> tuple[float, float]:
            with meters.paused():
                return self._validate(assembly, trainer)

        def observe() -> Observed:
            with meters.paused():
                return assembly.model.item_encoder.observe()  # type: ignore[operator]

        def evaluated() -> None:
            if training.best == len(training.curve) - 1:
                self.best_ranks = self.last_ranks
            if checkpoints.due(training.curve[-1]):
                with meters.paused():
                    checkpoints.save(trainer, training, clock.rows, self.best_ranks, self._readings(meters))
                self.report({"event": "checkpoint", "step": len(training.losses)})

        def follow(event: dict[str, Any]) -> None:
            checkpoints.follow(len(training.losses))
            self.report(event)

        try:
            with meters, self.compiler.running():
                train(
                    trainer,
                    all_batches(splits, size, seed, len(training.losses)),
                    assembly.feed,
                    log_popularity(splits),
                    Budget.of(self.cell.budget, epoch_steps),
                    clock,
                    validate,
                    follow,
                    training,
                    evaluated,
                    observe,
                )
        finally:
            for watch in watches:
                watch.remove()
        self.warnings += checkpoints.warnings
        return meters

    def _readings(self, meters: TrainingMeters) -> MeterReadings:
        """What the meters say up to now, and what torch compiled meanwhile."""
        found = meters.readings()
        return replace(found, warnings=(*found.warnings, *self.compiler.warnings))

    def _resume(self, checkpoints: Checkpoints, trainer: Trainer) -> MeterReadings | None:
        """Goes on from a checkpoint if there is one; gives what was measured until then."""
        saved = checkpoints.resume(trainer)
        if saved is None:
            return None
        self.training, self.best_ranks = saved.training, saved.ranks
        self.clock.rows.extend(saved.rows)
        count, last = checkpoints.count, saved.training.curve[-1]
        self.resumed = {"times": count.times, "steps_lost": count.lost, "at_step": last.step, "at_epoch": last.epoch}
        self.report({"event": "resumed", "epoch": last.epoch, "step": last.step})
        return saved.readings

    def _conclude(self, assembly: Assembly, ranks: Ranks | None) -> None:
        """The accuracy of the chosen epoch; of the test targets too, where they were ranked."""
        self._write_ranks(assembly, self.best_ranks, ranks)
        chosen = self.training.curve[self.training.best]
        if ranks is not None:
            found = accuracy(ranks)
            self.row |= {"hr@10": found.hr, "ndcg@10": found.ndcg}
        self.row |= {
            "valid_hr@10": chosen.valid_hr,
            "valid_ndcg@10": chosen.valid_ndcg,
            "best_epoch": chosen.epoch,
        }

    def _write_ranks(self, assembly: Assembly, valid: Ranks, test: Ranks | None) -> None:
        """A row per user with a target of either kind."""
        splits, users = assembly.data.splits, assembly.data.catalogue.user_ids
        of_valid = dict(zip(splits.valid_users.tolist(), valid.tolist(), strict=True))
        of_test = {} if test is None else dict(zip(splits.test_users.tolist(), test.tolist(), strict=True))
        evaluated = sorted({*of_valid, *of_test})
        write_ranks(
            self.folder,
            (users[user] for user in evaluated),
            (of_valid.get(user) for user in evaluated),
            (of_test.get(user) for user in evaluated),
        )

    def _record(
        self, assembly: Assembly, gates: dict[str, object], memory: MemoryAccount, measured: MeterReadings
    ) -> dict[str, Any]:
        splits, size = assembly.data.splits, self.cell.budget.batch_size
        times, doubts = epoch_times(self.clock.rows, steps_per_epoch(len(splits.train), size))
        self.warnings += doubts
        self.row |= {**times, "train_seconds": self.training.seconds}
        self.row |= {"status": "ok", "error": "", "warnings": "; ".join(self.warnings)}
        return {
            "schema": SCHEMA,
            "row": self.row,
            "method": {
                "name": self.cell.method.name,
                "type": self.cell.method.kind,
                "class": known()[self.cell.method.kind].target,
                "origin": known()[self.cell.method.kind].origin or None,
                "sha256": None if self.cell.method_file is None else self.cell.method_file.sha256,
                "options": self.cell.method.options,
                "groups": [{"name": g.name, "lr": g.lr, "parameters": g.count} for g in assembly.groups],
                "adapted": assembly.adapted,
            },
            "budget": asdict(self.cell.budget),
            "training": asdict(self.cell.training),
            "curve": self._curve(),
            "resumed": self.resumed,
            "compile": self.compiler.as_dict(),
            "steps": clocks.summary(self.clock.rows),
            "memory": memory.as_dict(),
            "nvml": None if measured.nvml is None else measured.nvml.as_dict(),
            "environment": capture(self.cell.device),
            "gates": gates,
            "batch_digest": batch_digest(splits, size, self.cell.seed),
            "unknown_token_share": assembly.unknown_share,
            "warnings": self.warnings,
            "traceback": "",
        }

    def _curve(self) -> list[dict[str, Any]]:
        return [
            {
                "epoch": e.epoch,
                "step": e.step,
                "train_seconds": e.train_seconds,
                "loss": e.loss,
                "valid_hr@10": e.valid_hr,
                "valid_ndcg@10": e.valid_ndcg,
                "observed": e.observed,
            }
            for e in self.training.curve
        ]

    def failed(self, outcome: Outcome) -> dict[str, Any]:
        """The record of a cell that did not end ok, with what it had got to; its steps are kept too."""
        losses = self.training.losses
        rows = self.clock.rows[: len(losses)]  # a step whose loss could not be read has a row and no loss
        if rows:
            write_steps(self.folder, rows, losses)
        so_far = {
            "curve": self._curve(),
            "resumed": self.resumed,
            "compile": self.compiler.as_dict(),
            "steps": clocks.summary(rows),
        }
        return failure_record(self.cell, outcome, self.report) | so_far


def run_cell(cell: Cell, folder: Path, report: Report) -> dict[str, Any]:
    """Runs a cell and writes its record, also when it fails; gives it. What was kept to go on from goes then."""
    folder.mkdir(exist_ok=True)  # not its parents: a run folder that vanished is not made again
    run, outcome = CellRun(cell, folder, report), None
    try:
        if cell.method_file is not None:
            load_recorded(cell.method_file)
        record = run.run()
    except Exception as error:
        traceback.print_exc()
        outcome = outcome_of(error, run.device)
    # Outside the handler: the exception is gone, and with its frames everything that the cell held.
    if outcome is not None:
        record = run.failed(outcome)
    write_record(folder, record)
    remove_checkpoints(folder)
    return record


def main(arguments: Sequence[str]) -> None:
    """What ``bench.launch.worker`` hands over to."""
    spec, folder = arguments

    def report(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    record = run_cell(Cell.from_json(Path(spec).read_text(encoding="utf-8")), Path(folder), report)
    report({"event": "end", "status": record["row"]["status"], "error": record["row"]["error"]})
