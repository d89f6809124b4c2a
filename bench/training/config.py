"""Parts of a matrix on training: the budget and the settings of the loop."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class BudgetConfig:
    """Budget of training, the same for every method; exactly one of epochs, steps and seconds is given.

    Attributes:
        epochs: passes over all users.
        steps: optimizer steps.
        seconds: seconds of training, without evaluations and set-up.
        batch_size: users per step.
    """

    epochs: Annotated[int, Field(ge=1, le=10_000)] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    seconds: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None = None
    batch_size: Annotated[int, Field(ge=2, le=65_536)] = 32


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """Settings of the training loop, the same for every method.

    Attributes:
        width: width d of item and user vectors.
        dropout: dropout rate of the user encoder.
        logit_scale: factor of the dot products in the loss.
        lr_schedule: learning rate after warm-up: constant, or linear to zero over the budget.
        lr_warmup_steps: steps in which the learning rate rises linearly.
        clip_norm: largest norm of the gradients of a step.
        attention: implementation of attention in the encoders.
        cudnn_attention: True if attention "sdpa" may use cuDNN's kernels on a GPU in 16 bit. cuDNN builds an execution
            plan for each new shape, and the number of distinct items changes with every step.
        gradient_checkpointing: True if layers of the encoders keep only their input and run again in the backward pass.
        compile: True if the parts named in ``bench.training.compile`` are compiled with torch.compile.
        cache_dtype: type of cached hidden states.
        timing_warmup_steps: untimed steps before training.
    """

    width: Annotated[int, Field(ge=2, le=4096, multiple_of=2)] = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    logit_scale: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    lr_schedule: Literal["constant", "linear"] = "linear"
    lr_warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 20
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    attention: Literal["sdpa", "eager"] = "sdpa"
    cudnn_attention: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    cache_dtype: Literal["float16", "float32"] = "float16"
    timing_warmup_steps: Annotated[int, Field(ge=0, le=1000)] = 3
