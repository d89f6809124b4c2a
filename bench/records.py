"""What a cell leaves behind. This is the only writer of run folders; it imports nothing heavy.

    matrix.toml  environment.json  dataset.json
    cells/<cell-id>/{record.json, steps.csv, ranks.csv, stderr.txt, trace.json}

Tables, report and figures are rendered from these by ``reports``.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.store import atomic_path
from bench.errors import UserError
from bench.matrix import Cell

SCHEMA = 1
# The contract's columns, in its order; reports adds tpme over the whole table.
COLUMNS = (
    "cell_id", "method", "dataset", "modality", "text_model", "image_model", "seed", "status", "error", "device",
    "precision", "batch_size", "epochs", "steps", "hr@10", "ndcg@10", "valid_hr@10", "best_epoch",
    "step_seconds_median", "epoch_seconds", "train_seconds", "setup_seconds", "trainable_params", "total_params",
    "peak_memory_bytes", "memory_source", "peak_allocated_bytes", "peak_reserved_bytes", "nvml_process_bytes",
    "nvml_device_bytes", "peak_rss_bytes", "energy_joules", "flops_forward", "flops_backward", "tpme",
    "valid_ndcg@10", "weights", "dataset_seed", "cache_seconds", "cache_bytes", "unique_items_per_step", "warnings",
)  # fmt: skip
STEP_COLUMNS = (
    "epoch", "step", "seconds", "data", "transfer", "backbone", "forward", "backward", "optimizer", "loss",
)  # fmt: skip
RANK_COLUMNS = ("user", "valid_rank", "test_rank")


def empty_row(cell: Cell) -> dict[str, Any]:
    """All columns, filled as far as the cell's configuration tells; unmeasured is None."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    return row | {
        "cell_id": cell.cell_id,
        "method": cell.method.name,
        "dataset": cell.dataset.name,
        "modality": cell.modality,
        "text_model": cell.model("text"),
        "image_model": cell.model("image"),
        "seed": cell.seed,
        "device": cell.device,
        "precision": cell.precision,
        "batch_size": cell.budget.batch_size,
        "epochs": cell.budget.epochs,
        "steps": cell.budget.steps,
        "weights": cell.backbones.weights,
        "dataset_seed": cell.dataset.seed if cell.dataset.name == "shop" else None,
    }


def failure(cell: Cell, status: str, error: str, traceback: str = "") -> dict[str, Any]:
    """The record of a cell that did not end ok."""
    row = empty_row(cell) | {"status": status, "error": one_line(error)}
    return {
        "schema": SCHEMA,
        "row": row,
        "method": {"name": cell.method.name, "type": cell.method.kind, "options": cell.method.options},
        "curve": [],
        "warnings": [],
        "traceback": traceback,
    }


def one_line(text: str) -> str:
    """The first line that says something, cut to a bearable length."""
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``record.json`` into a cell's folder, whole or not at all."""
    write_json(folder / "record.json", record)


def write_steps(folder: Path, rows: Iterable[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """Writes ``steps.csv``: seconds, exclusive by phase; what was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, STEP_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, loss in zip(rows, losses, strict=True):
        full = {**row, "loss": loss}
        writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in full.items()})
    write_text(folder / "steps.csv", text.getvalue())


def write_ranks(folder: Path, users: Iterable[str], valid: Iterable[int], test: Iterable[int]) -> None:
    """Writes ``ranks.csv``: for every user the ranks of both targets, best 1, under the model of the chosen epoch."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RANK_COLUMNS)
    writer.writerows(zip(users, valid, test, strict=True))
    write_text(folder / "ranks.csv", text.getvalue())


def write_trace(folder: Path, export: Callable[[str], object]) -> None:
    """Writes ``trace.json``: what a profiler exports to the path it is given.

    Raises:
        UserError: when the file cannot be written, naming it.
    """
    path = folder / "trace.json"
    try:
        with atomic_path(path) as partial:
            export(str(partial))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Atomic; numbers that are not finite become null, for JSON has none and a figure that is none is unknown."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Atomic.

    Raises:
        UserError: when the file cannot be written, naming it.
    """
    try:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def cell_folder(run: Path, cell_id: str) -> Path:
    """Where a cell leaves its files."""
    return run / "cells" / cell_id


def finished(run: Path, cell_id: str) -> bool:
    """Whether an earlier run left an ok record of this cell."""
    try:
        record = json.loads((cell_folder(run, cell_id) / "record.json").read_text(encoding="utf-8"))
        return bool(record["row"]["status"] == "ok")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def open_run(run: Path, matrix_toml: str) -> None:
    """Makes the run folder, or goes on with one of the same matrix.

    Raises:
        UserError: the folder holds something else, or another matrix (names the first difference).
    """
    recipe = run / "matrix.toml"
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run}: is a file")
    if recipe.is_file():
        difference = _first_difference(recipe.read_text(encoding="utf-8", errors="replace"), matrix_toml)
        if difference:
            raise UserError(f"--out {run}: holds a run of another matrix ({difference}); choose another folder")
        return
    if run.is_dir() and any(run.iterdir()):
        raise UserError(f"--out {run}: is not empty and no run folder; choose another folder")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {run}: {error.strerror}") from error
    write_text(recipe, matrix_toml)


def _first_difference(old: str, new: str) -> str:
    for before, after in zip(old.splitlines(), new.splitlines(), strict=False):
        if before != after:
            return f"there {before.strip()!r}, now {after.strip()!r}"
    return "" if len(old.splitlines()) == len(new.splitlines()) else "it is of another length"
