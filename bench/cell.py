"""One cell, from start to record. Runs in a process of its own (``bench.cell_process``).

Progress goes to standard output as JSON lines; the record goes to FOLDER, whatever happens.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import records
from bench.assemble import Assembly, assemble
from bench.budget import Budget
from bench.data.batches import (
    Batch,
    all_batches,
    batch_digest,
    epoch_batches,
    largest_batch,
    log_popularity,
    make_batch,
    median_batch,
    steps_per_epoch,
)
from bench.environment import capture
from bench.errors import UserError
from bench.evaluate import accuracy, evaluate
from bench.gates import GateError, check_gates
from bench.matrix import Cell
from bench.measure import clock as clocks
from bench.measure.cost import cache_cost, compute_rate, epoch_times
from bench.measure.flops import Flops, count_flops
from bench.measure.memory import MemoryAccount, allocator_peaks, reset_allocator_peaks
from bench.measure.nvml import NvmlSampler
from bench.measure.plan import planned
from bench.measure.probe import probe
from bench.measure.process import MachineWatch, peak_rss_bytes
from bench.measure.profile import trace_steps
from bench.models.recommender import TrainBatch
from bench.train import Diverged, Trainer, Training, train

GATE_USERS = 8
Report = Any


class CellRun:
    """The phases of one cell. Each fills its part of the record."""

    def __init__(self, cell: Cell, folder: Path, report: Report):
        self.cell = cell
        self.folder = folder
        self.report = report
        self.device = torch.device(cell.device)
        self.row = records.empty_row(cell)
        self.warnings: list[str] = []
        # Per evaluation the ranks of all users' validation targets: those of the chosen epoch are kept.
        self.valid_ranks: list[NDArray[np.int64]] = []

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
        self._warm_up(assembly, trainer)
        trainer.restore(start)
        trainer.reset_optimizer()
        # From here on every method draws the same dropout masks, whatever its gates and probes consumed.
        torch.manual_seed(self.cell.seed)
        reset_allocator_peaks(self.device)
        training, clock, nvml = self._train(assembly, trainer)
        self.report({"event": "phase", "phase": "test"})
        self._test(assembly, trainer, training)
        self._memory(memory, nvml)
        records.write_steps(self.folder, clock.rows, training.losses)
        self._profile(assembly, trainer)
        return self._record(assembly, training, clock, gates, memory, nvml) | {
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
            "total_params": sum(p.numel() for p in assembly.model.parameters()),
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
        return check_gates(assembly.model, trainer.step, batch, trainer.parameters, assembly.adapted)

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
        return count_flops(lambda: trainer.forward(moved)), len(batch.unique)

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
            self.warnings.append(f"no trace: {records.one_line(str(error))}")

    def _warm_up(self, assembly: Assembly, trainer: Trainer) -> None:
        batches = all_batches(assembly.data.splits, self.cell.budget.batch_size, self.cell.seed)
        for _ in range(self.cell.training.timing_warmup_steps):
            trainer.step(self._batch(assembly, trainer, next(batches)))

    def _validate(self, assembly: Assembly, trainer: Trainer) -> tuple[float, float]:
        splits = assembly.data.splits
        with trainer.autocast():
            ranks = evaluate(
                assembly.model,
                assembly.feed,
                splits.valid_inputs,
                splits.valid_target,
                splits.valid_history,
                assembly.data.n_items,
                self.device,
            )
        self.valid_ranks.append(ranks)
        found = accuracy(ranks)
        return found.hr, found.ndcg

    def _train(self, assembly: Assembly, trainer: Trainer) -> tuple[Training, clocks.StepClock, Any]:
        splits, size, seed = assembly.data.splits, self.cell.budget.batch_size, self.cell.seed
        clock = clocks.StepClock(self.device)
        watches = [clock.watch(encoder) for encoder in assembly.encoders]
        self.report({"event": "phase", "phase": "training"})
        # A card that the cell does not run on is nobody's business.
        sampler = NvmlSampler(_uuid(self.device), index=self.device.index or 0) if self.device.type == "cuda" else None

        def validate() -> tuple[float, float]:
            with sampler.paused() if sampler else nullcontext():
                return self._validate(assembly, trainer)

        try:
            with sampler or nullcontext(), MachineWatch() as machine:
                training = train(
                    trainer,
                    all_batches(splits, size, seed),
                    assembly.feed,
                    log_popularity(splits),
                    Budget.of(self.cell.budget, steps_per_epoch(len(splits.train), size)),
                    clock,
                    validate,
                    self.report,
                )
        finally:
            for watch in watches:
                watch.remove()
        reading = sampler.reading if sampler else None
        if sampler is not None and reading is None:
            self.warnings.append(f"no figures from NVML: {sampler.reason}")
        self.warnings += [*machine.warnings, *clocks.step_warnings(clock.rows), *(reading.warnings if reading else ())]
        return training, clock, reading

    def _test(self, assembly: Assembly, trainer: Trainer, training: Training) -> None:
        splits = assembly.data.splits
        with trainer.autocast():
            ranks = evaluate(
                assembly.model,
                assembly.feed,
                splits.test_inputs,
                splits.test_target,
                splits.test_history,
                assembly.data.n_items,
                self.device,
            )
        users, valid = assembly.data.catalogue.user_ids, self.valid_ranks[training.best]
        records.write_ranks(self.folder, users, valid.tolist(), ranks.tolist())
        found, chosen = accuracy(ranks), training.curve[training.best]
        self.row |= {
            "hr@10": found.hr,
            "ndcg@10": found.ndcg,
            "valid_hr@10": chosen.valid_hr,
            "valid_ndcg@10": chosen.valid_ndcg,
            "best_epoch": chosen.epoch,
        }

    def _memory(self, memory: MemoryAccount, nvml: Any) -> None:
        allocated, reserved = allocator_peaks(self.device)
        self.row |= {
            "peak_allocated_bytes": allocated,
            "peak_reserved_bytes": reserved,
            "peak_rss_bytes": peak_rss_bytes(),
            "nvml_process_bytes": None if nvml is None else nvml.process_bytes,
            "nvml_device_bytes": None if nvml is None else nvml.device_bytes,
            "energy_joules": None if nvml is None else nvml.energy_joules,
        }
        # What a user must have free on the card: NVML's figure for this process where the driver tells it, else
        # what torch reserved. On the CPU the account, which does not depend on the allocator.
        for source in ("nvml_process_bytes", "peak_reserved_bytes"):
            if self.row[source] is not None:
                self.row |= {"peak_memory_bytes": self.row[source], "memory_source": source}
                return
        self.row |= {"peak_memory_bytes": memory.peak_bytes, "memory_source": "account"}

    def _record(
        self,
        assembly: Assembly,
        training: Training,
        clock: clocks.StepClock,
        gates: dict[str, object],
        memory: MemoryAccount,
        nvml: Any,
    ) -> dict[str, Any]:
        splits, size = assembly.data.splits, self.cell.budget.batch_size
        times, doubts = epoch_times(clock.rows, steps_per_epoch(len(splits.train), size))
        self.warnings += doubts
        self.row |= {**times, "train_seconds": training.seconds}
        self.row |= {"status": "ok", "error": "", "warnings": "; ".join(self.warnings)}
        return {
            "schema": records.SCHEMA,
            "row": self.row,
            "method": {
                "name": self.cell.method.name,
                "type": self.cell.method.kind,
                "options": self.cell.method.options,
                "groups": [{"name": g.name, "lr": g.lr, "parameters": g.count} for g in assembly.groups],
                "adapted": assembly.adapted,
            },
            "budget": asdict(self.cell.budget),
            "training": asdict(self.cell.training),
            "curve": [
                {
                    "epoch": e.epoch,
                    "step": e.step,
                    "train_seconds": e.train_seconds,
                    "loss": e.loss,
                    "valid_hr@10": e.valid_hr,
                    "valid_ndcg@10": e.valid_ndcg,
                }
                for e in training.curve
            ],
            "steps": clocks.summary(clock.rows),
            "memory": memory.as_dict(),
            "nvml": None if nvml is None else asdict(nvml),
            "environment": capture(self.cell.device),
            "gates": gates,
            "batch_digest": batch_digest(splits, size, self.cell.seed),
            "unknown_token_share": assembly.unknown_share,
            "warnings": self.warnings,
            "traceback": "",
        }


def plan_beside(cell: Cell, report: Report) -> dict[str, Any] | None:
    """What ``plan`` predicts for a cell, made when everything is measured; None where it cannot be planned."""
    report({"event": "phase", "phase": "plan"})
    try:
        return planned(cell)
    except (UserError, RuntimeError, ValueError, TypeError) as error:
        print(f"no plan: {records.one_line(str(error))}", file=sys.stderr)
        return None


def _uuid(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device).uuid)


def run_cell(cell: Cell, folder: Path, report: Report) -> dict[str, Any]:
    """Runs a cell and writes its record, also when it fails; gives the record."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        record = CellRun(cell, folder, report).run()
    except torch.OutOfMemoryError as error:
        record = records.failure(cell, "oom", str(error), traceback.format_exc())
    except Diverged as error:
        record = records.failure(cell, "diverged", str(error))
    except (UserError, GateError) as error:
        record = records.failure(cell, "failed", str(error))
    except Exception as error:
        record = records.failure(cell, "failed", f"{type(error).__name__}: {error}", traceback.format_exc())
        traceback.print_exc()
    records.write_record(folder, record)
    return record


def main(arguments: Sequence[str]) -> None:
    """What ``bench.cell_process`` hands over to."""
    spec, folder = arguments

    def report(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    record = run_cell(Cell.from_json(Path(spec).read_text(encoding="utf-8")), Path(folder), report)
    report({"event": "end", "status": record["row"]["status"], "error": record["row"]["error"]})
