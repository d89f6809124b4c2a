"""What a matrix says of the search that its options come from. Imports nothing heavy: reports read it too."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tuned:
    """What the search for a method's options has cost (``bench.tuning``). Reports show it; it changes no cell.

    Attributes:
        name: of the method.
        trials, failed: how many were run, and how many of them ended without a figure.
        timed, seconds: trials whose time is known, and their sum, wall-clock.
        metered, joules: the same for the energy of training.
        data: digest of what it was chosen on.
        options: those chosen.
        curve: trial, counted from 1, and the best validation HR@10 until then, from the first that has a figure.
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
