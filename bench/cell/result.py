"""Columns of the row, ranks and record of a finished cell, from its state."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.cell.assemble import Assembly
from bench.cell.state import CellState
from bench.config.cells import Cell
from bench.data.batches import batch_digest, epoch_batches, steps_per_epoch
from bench.measure import clock
from bench.measure.derived_costs import cache_cost, compute_rate, epoch_times
from bench.measure.environment import capture
from bench.measure.training_meters import memory_columns
from bench.models.quantisation import count_values
from bench.records.record import SCHEMA, write_ranks
from bench.scoring.ranking import Mask, warm_and_cold
from bench.training.evaluate import accuracy
from bench.training.loop import Evaluation
from methods.registry import known

Ranks = NDArray[np.int64]


def size_columns(cell: Cell, assembly: Assembly) -> dict[str, Any]:
    """Columns of a cell that is assembled: parameters, items per step, and seconds and bytes of its caches."""
    batches = epoch_batches(assembly.data.splits, cell.budget.batch_size, cell.seed, 1)
    columns: dict[str, Any] = {
        "trainable_params": sum(group.count for group in assembly.groups),
        "total_params": count_values(assembly.model.parameters()),
        "unique_items_per_step": float(np.mean([len(batch.unique) for batch in batches])),
    }
    if assembly.caches:
        columns["cache_seconds"] = sum(cache.seconds for cache in assembly.caches.values())
        columns["cache_bytes"] = sum(cache.size for cache in assembly.caches.values())
    return columns


def accuracy_columns(chosen: Evaluation, test_ranks: Ranks | None, seen: Mask) -> dict[str, Any]:
    """Columns of the validation accuracy at the chosen epoch, and of the test accuracy if test targets were ranked.

    Args:
        chosen: evaluation at the chosen epoch.
        test_ranks: ranks of the test targets, (users,); None if they were not ranked.
        seen: True for test targets that training has seen, (users,).
    """
    columns: dict[str, Any] = {
        "valid_hr@10": chosen.valid_hr,
        "valid_ndcg@10": chosen.valid_ndcg,
        "best_epoch": chosen.epoch,
    }
    if test_ranks is not None:
        test = accuracy(test_ranks)
        columns |= {"hr@10": test.hr, "ndcg@10": test.ndcg, "warm_targets": 0, "cold_targets": 0}
        for prefix, users in warm_and_cold(seen).items():
            part = accuracy(test_ranks[users])
            columns |= {f"{prefix}targets": int(users.sum()), f"{prefix}hr@10": part.hr, f"{prefix}ndcg@10": part.ndcg}
    return columns


def save_ranks(folder: Path, assembly: Assembly, valid: Ranks, test: Ranks | None) -> None:
    """Write ``ranks.csv``: a row per user with a validation or test target.

    Args:
        valid: ranks of the validation targets at the chosen epoch, (users,).
        test: ranks of the test targets, (users,); None if they were not ranked.
    """
    splits, users = assembly.data.splits, assembly.data.catalogue.user_ids
    valid_ranks = dict(zip(splits.valid_users.tolist(), valid.tolist(), strict=True))
    test_ranks = {} if test is None else dict(zip(splits.test_users.tolist(), test.tolist(), strict=True))
    evaluated = sorted({*valid_ranks, *test_ranks})
    write_ranks(
        folder,
        (users[user] for user in evaluated),
        (valid_ranks.get(user) for user in evaluated),
        (test_ranks.get(user) for user in evaluated),
    )


def curve_entries(curve: list[Evaluation]) -> list[dict[str, Any]]:
    """Entries of a training curve in a record."""
    return [
        {
            "epoch": point.epoch,
            "step": point.step,
            "train_seconds": point.train_seconds,
            "loss": point.loss,
            "valid_hr@10": point.valid_hr,
            "valid_ndcg@10": point.valid_ndcg,
            "observed": point.observed,
        }
        for point in curve
    ]


def progress_entries(run: CellState) -> dict[str, Any]:
    """Entries on the progress of a cell, for records of finished and of failed cells."""
    return {
        "curve": curve_entries(run.training.curve),
        "resumed": run.resumed,
        "compile": run.compiler.as_dict(),
        "steps": clock.summary(run.clock.rows[: len(run.training.losses)]),
        "phase_seconds": run.phase_seconds,
    }


def record_of(run: CellState) -> dict[str, Any]:
    """Make the record of a cell that ended ok, and complete its row.

    Args:
        run: the cell after its last phase.
    """
    cell, assembly, readings = run.cell, run.assembly, run.readings
    splits, size = assembly.data.splits, cell.budget.batch_size
    times, warnings = epoch_times(run.clock.rows, steps_per_epoch(len(splits.train), size))
    # The memory account is of an eager step and not valid for a compiled one.
    run.row |= memory_columns(readings, None if run.compiler.on else run.memory.peak_bytes)
    run.row |= {**times, "train_seconds": run.training.seconds, "setup_seconds": run.phase_seconds["assemble"]}
    run.warnings += warnings
    run.row |= {"status": "ok", "error": "", "warnings": "; ".join(run.warnings)}
    return {
        "schema": SCHEMA,
        "row": run.row,
        "method": cell.description | _method_entries(cell, assembly),
        "budget": asdict(cell.budget),
        "training": asdict(cell.training),
        **progress_entries(run),
        "memory": run.memory.as_dict(),
        "nvml": None if readings.nvml is None else readings.nvml.as_dict(),
        "environment": capture(cell.device),
        "gates": run.checks,
        "batch_digest": batch_digest(splits, size, cell.seed),
        "unknown_token_share": assembly.unknown_share,
        "warnings": run.warnings,
        "traceback": "",
        "cache": cache_cost(assembly.caches, run.row["unique_items_per_step"]),
        "compute": compute_rate(*run.median_work, run.operators, run.row["step_seconds_median"]),
        "attributes": run.attributes,
        "plan": run.plan,
        "trace": run.traced,
    }


def _method_entries(cell: Cell, assembly: Assembly) -> dict[str, Any]:
    """Entries on the method beyond its configuration."""
    entry = known()[cell.method.kind]
    return {
        "class": entry.target,
        "origin": entry.origin or None,
        "sha256": None if cell.method_file is None else cell.method_file.sha256,
        "groups": [{"name": g.name, "lr": g.lr, "parameters": g.count} for g in assembly.groups],
        "adapted": assembly.adapted,
    }
