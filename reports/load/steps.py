"""The seconds of single steps, and what drawing steps and seeds anew does to their means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.records.columns import PHASES
from bench.utils.errors import UserError

if TYPE_CHECKING:
    pass

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
