"""Matrix section ``[[tuning]]``: cost and outcome of the search that chose a method's options. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tuned:
    """Cost and outcome of the search for a method's options; shown in reports, without effect on cells.

    Attributes:
        name: name of the method.
        trials, failed: number of trials, and of those among them without a result.
        timed, seconds: number of trials whose wall-clock time is known, and the sum of these times.
        metered, joules: number of trials whose energy of training is known, and the sum of these energies.
        data: digest of the data that the options were chosen on.
        options: the chosen options.
        curve: pairs of trial (from 1) and best validation HR@10 so far, from the first trial with a result on.
    """

    name: str
    trials: Annotated[int, Field(ge=1, le=1_000_000)]
    failed: Annotated[int, Field(ge=0)]
    options: dict[str, Any]
    curve: tuple[tuple[Annotated[int, Field(ge=1, le=1_000_000)], Annotated[float, Field(ge=0, le=1)]], ...]
    timed: Annotated[int, Field(ge=0)] = 0
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    metered: Annotated[int, Field(ge=0)] = 0
    joules: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    data: str | None = None
