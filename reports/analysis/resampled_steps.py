"""Bootstrap over the training steps of cells, for the uncertainty of mean step times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reports.analysis import resampling
from reports.load.run_folders import Record
from reports.load.steps import SECONDS, read_steps

FloatArray = NDArray[np.float64]


def seconds_of(records: Sequence[Record], method: str) -> FloatArray:
    """Seconds of all steps of the cells of a method that ended ok, shape (steps,)."""
    found = [
        steps for record in records if _counts(record, method) and (steps := read_steps(record.steps_path)) is not None
    ]
    return np.concatenate([steps[SECONDS].to_numpy() for steps in found]) if found else np.empty(0)


def by_seed(records: Sequence[Record], method: str) -> dict[int, tuple[Record, pd.DataFrame]]:
    """Record and steps of each cell of a method that ended ok and has steps, by seed in ascending order."""
    found = {}
    for record in records:
        steps = read_steps(record.steps_path) if _counts(record, method) else None
        if steps is not None and len(steps):
            found[int(record.row.get("seed") or 0)] = (record, steps)
    return dict(sorted(found.items()))


def _counts(record: Record, method: str) -> bool:
    return record.ok and record.row["method"] == method


def resampled_means(record: Record, steps: pd.DataFrame, columns: Sequence[str], draw: str = "") -> FloatArray:
    """Bootstrap over the steps of a cell: replicated means of columns, shape (resamples, columns).

    The random draws depend on the cell, its run and `draw`: a second call gives the same draws, another cell others.
    """
    generator = resampling.generator_for(record.cell_id, record.run.resolve().name, draw)
    return resampling.resampled_block_means(steps[list(columns)].fillna(0.0).to_numpy(), generator)


def resampled_epochs(record: Record, steps: pd.DataFrame, draw: str = "") -> FloatArray:
    """Bootstrap of the seconds of an epoch, shape (resamples,), scaled by the mean of the drawn steps."""
    means = resampled_means(record, steps, [SECONDS], draw)[:, 0]
    return np.asarray(float(record.row["epoch_seconds"]) * means / steps[SECONDS].mean())
