"""The seconds of single steps, and what drawing steps and seeds anew does to their means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.columns import PHASES
from bench.utils.errors import UserError
from reports import stats

if TYPE_CHECKING:
    from reports.load import Record

FloatArray = NDArray[np.float64]

SECONDS = "seconds"


def read_steps(path: Path) -> pd.DataFrame | None:
    """The seconds of each step and of its phases, a row per step; None where a cell kept none.

    Phases that the file does not have, or that were not measured, are NaN.

    Raises:
        UserError: names the file; for one that is malformed.
    """
    if not path.is_file():
        return None
    try:
        frame = pd.read_csv(path)
        if SECONDS not in frame.columns:
            raise ValueError(f"no column {SECONDS}")
        wanted = {
            name: pd.to_numeric(frame[name]).astype("float64") if name in frame.columns else np.nan
            for name in (SECONDS, *PHASES)
        }
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: malformed: {str(error).splitlines()[0]}") from None
    steps = pd.DataFrame(wanted, index=frame.index)
    if (steps < 0).any(axis=None) or np.isinf(steps).any(axis=None):
        raise UserError(f"{path}: malformed: seconds below 0 or without end")
    return steps.dropna(subset=[SECONDS])


def seconds_of(records: Sequence[Record], method: str) -> FloatArray:
    """Seconds of all steps of a method's cells that ended ok, shape (steps,)."""
    found = [
        steps for record in records if _counts(record, method) and (steps := read_steps(record.steps_path)) is not None
    ]
    return np.concatenate([steps[SECONDS].to_numpy() for steps in found]) if found else np.empty(0)


def by_seed(records: Sequence[Record], method: str) -> dict[int, tuple[Record, pd.DataFrame]]:
    """Per seed, rising, the record and the steps of a method's cell; only cells that ended ok and have steps."""
    found = {}
    for record in records:
        steps = read_steps(record.steps_path) if _counts(record, method) else None
        if steps is not None and len(steps):
            found[int(record.row.get("seed") or 0)] = (record, steps)
    return dict(sorted(found.items()))


def _counts(record: Record, method: str) -> bool:
    return record.ok and record.row["method"] == method


def resampled_means(record: Record, steps: pd.DataFrame, columns: Sequence[str], draw: str = "") -> FloatArray:
    """Bootstrap over the steps of a cell: replicated means of columns, (resamples, columns).

    The draws belong to the cell, its run and `draw`: asked again, it gives the same, and no other cell gives them.
    """
    generator = stats.generator_for(record.cell_id, record.run.resolve().name, draw)
    return stats.resampled_block_means(steps[list(columns)].fillna(0.0).to_numpy(), generator)


def resampled_epochs(record: Record, steps: pd.DataFrame, draw: str = "") -> FloatArray:
    """Bootstrap of the seconds of an epoch, (resamples,): they move with the mean of the steps drawn."""
    means = resampled_means(record, steps, [SECONDS], draw)[:, 0]
    return np.asarray(float(record.row["epoch_seconds"]) * means / steps[SECONDS].mean())
