"""The parts of a matrix that say how long and with which settings a cell trains."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BudgetConfig:
    """The same for every method: exactly one of epochs, steps and seconds of training."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    seconds: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """What the loop does, for every method alike.

    Attributes:
        gradient_checkpointing: layers of the encoders keep their input alone and run again for the backward pass.
        compile: torch.compile for what ``bench.training.compile`` names.
    """

    width: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    logit_scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    lr_schedule: Literal["constant", "linear"] = "linear"
    lr_warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    attention: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False
    compile: bool = False
    cache_dtype: Literal["float16", "float32"] = "float16"
    timing_warmup_steps: Annotated[int, Field(ge=0, le=1000)] = 3
