"""Columns of every table that a run leaves, declared once for whoever writes or reads them.

The order of ``CONTRACT`` is relied on from outside; the kind of a column decides how it is read and written.
"""

from __future__ import annotations

from typing import Literal, get_args

Phase = Literal["data", "transfer", "backbone", "forward", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Phases of a training step, in their order; seconds are exclusive, so that they sum to the step."""

STEPS = ("epoch", "step", "seconds", *PHASES, "loss")
"""Columns of steps.csv."""

RANKS = ("user", "valid_rank", "test_rank")
"""Columns of ranks.csv."""

CONTRACT = (
    "cell_id",
    "method",
    "dataset",
    "modality",
    "text_model",
    "image_model",
    "seed",
    "status",
    "error",
    "device",
    "precision",
    "batch_size",
    "epochs",
    "steps",
    "hr@10",
    "ndcg@10",
    "valid_hr@10",
    "best_epoch",
    "step_seconds_median",
    "epoch_seconds",
    "train_seconds",
    "setup_seconds",
    "trainable_params",
    "total_params",
    "peak_memory_bytes",
    "memory_source",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "nvml_process_bytes",
    "nvml_device_bytes",
    "peak_rss_bytes",
    "energy_joules",
    "flops_forward",
    "flops_backward",
    "tpme",
)

FURTHER = (
    "valid_ndcg@10",
    "weights",
    "dataset_seed",
    "cache_seconds",
    "cache_bytes",
    "unique_items_per_step",
    "warnings",
)
"""Columns that every record has after those of the contract."""

RECORD = CONTRACT + FURTHER
"""Columns of a record's row."""

ADDED = ("dataset_digest", "budget", "training", "machine", "run")
"""Columns that the tables add, so that a row says on its own what it may be compared with."""

TEXTS = (
    "cell_id",
    "method",
    "dataset",
    "modality",
    "text_model",
    "image_model",
    "status",
    "error",
    "device",
    "precision",
    "memory_source",
    "weights",
)

INTEGERS = (
    "seed",
    "batch_size",
    "epochs",
    "steps",
    "best_epoch",
    "trainable_params",
    "total_params",
    "peak_memory_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "nvml_process_bytes",
    "nvml_device_bytes",
    "peak_rss_bytes",
    "flops_forward",
    "flops_backward",
    "dataset_seed",
    "cache_bytes",
)
"""Whole numbers, written without a decimal point; a fractional value (half an epoch) turns its column into reals."""

NUMBERS = (
    "hr@10",
    "ndcg@10",
    "valid_hr@10",
    "step_seconds_median",
    "epoch_seconds",
    "train_seconds",
    "setup_seconds",
    "energy_joules",
    "tpme",
    "valid_ndcg@10",
    "cache_seconds",
    "unique_items_per_step",
)

GROUP = (
    "dataset",
    "dataset_seed",
    "dataset_digest",
    "modality",
    "text_model",
    "image_model",
    "weights",
    "device",
    "machine",
    "precision",
    "batch_size",
    "budget",
    "training",
)
"""Cells that agree in all of these are one comparison."""

NOT_A_FIGURE = ("seed", "dataset_seed", "batch_size", "tpme")
"""Numeric columns that are part of the question, or (tpme) have a meaning of their own: no mean, no interval."""


def model_label(name: str, pooling: str, quantise: str | None) -> str:
    """Name of an encoder in tables, with a pooling or quantisation that is not the default in brackets."""
    said = ", ".join(word for word in (pooling, quantise) if word not in ("auto", None))
    return f"{name} ({said})" if said else name
