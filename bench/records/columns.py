"""Columns and keys of the tables and records of a run, declared once for writers and readers.

Other programs rely on the order of ``CONTRACT``. The kind of a column (text, integer, number) decides how it is
written and read. The module imports neither torch nor pandas.
"""

from __future__ import annotations

from typing import Literal, get_args

Phase = Literal["data", "transfer", "backbone", "forward", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Phases of a training step, in order; their seconds are exclusive and sum to the step."""

MemoryPart = Literal["parameters", "gradients", "optimizer", "activations", "cache", "rest"]
MEMORY_PARTS: tuple[MemoryPart, ...] = get_args(MemoryPart)
"""Parts of the memory account of a step, in the order of tables and figures; their bytes sum to the peak."""

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
    "warm_targets",
    "warm_hr@10",
    "warm_ndcg@10",
    "cold_targets",
    "cold_hr@10",
    "cold_ndcg@10",
    "warnings",
)
"""Columns of every record after ``CONTRACT``."""

RECORD = CONTRACT + FURTHER
"""Columns of the row of a record."""

ADDED = ("dataset_digest", "budget", "training", "machine", "run")
"""Columns that only the tables have; they show which rows may be compared with each other."""

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
    "warm_targets",
    "cold_targets",
)
"""Integer columns, written without a decimal point unless a value is fractional (half an epoch)."""

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
    "warm_hr@10",
    "warm_ndcg@10",
    "cold_hr@10",
    "cold_ndcg@10",
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
"""Cells with equal values in all of these columns form one comparison."""

NOT_A_FIGURE = ("seed", "dataset_seed", "batch_size", "tpme")
"""Numeric columns without mean and interval: settings of a cell, and tpme, which is a score of a comparison."""


def model_label(name: str, pooling: str, quantise: str | None) -> str:
    """Name of an encoder in tables, followed in brackets by a pooling or quantisation other than the default."""
    options = ", ".join(word for word in (pooling, quantise) if word not in ("auto", None))
    return f"{name} ({options})" if options else name
