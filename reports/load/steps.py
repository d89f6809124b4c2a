"""Read steps.csv: the seconds of each training step and of its phases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from bench.records.columns import PHASES
from bench.utils.errors import UserError

SECONDS = "seconds"


def read_steps(path: Path) -> pd.DataFrame | None:
    """Seconds of each step and of its phases, a row per step; None if the cell has no steps.csv.

    Phases that are not in the file or were not measured are NaN.

    Raises:
        UserError: the file is malformed; the message names it.
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
        raise UserError(f"{path}: malformed: seconds below 0 or infinite")
    return steps.dropna(subset=[SECONDS])
