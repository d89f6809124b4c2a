"""What the phases of a cell cost, from numbers that were measured: pure functions on rows of steps and cache files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.measure.clock import Row
from bench.measure.flops import Flops
from bench.models.hidden_states import CacheFile


def epoch_times(rows: Sequence[Row], per_epoch: int) -> tuple[dict[str, Any], list[str]]:
    """The columns that say how long training took, and what is doubtful about them.

    Args:
        rows: of the clock, one per step, at least one.
        per_epoch: steps of a pass over all users.

    Returns:
        ``epochs``, ``steps``, ``step_seconds_median`` and ``epoch_seconds``: the median over whole epochs, or the mean
        step times the steps of an epoch where no epoch was finished, which the warning says.
    """
    seconds = np.array([row["seconds"] for row in rows], dtype=np.float64)
    whole = [seconds[i : i + per_epoch].sum() for i in range(0, len(seconds) - per_epoch + 1, per_epoch)]
    found = {
        "epochs": len(seconds) / per_epoch,
        "steps": len(seconds),
        "step_seconds_median": float(np.median(seconds)),
        "epoch_seconds": float(np.median(whole)) if whole else float(seconds.mean() * per_epoch),
    }
    return found, [] if whole else [f"epoch_seconds is extrapolated from {len(seconds)} steps"]


def cache_cost(caches: Mapping[str, CacheFile], items_per_step: float) -> dict[str, Any] | None:
    """The ``cache`` entry of a record; None for a cell without a cache.

    Args:
        caches: modality -> file.
        items_per_step: mean number of distinct items of a step.

    Returns:
        ``seconds``: what building took, whenever that was; ``bytes``: size on disk; ``reused``: nothing had to be
        built; ``bytes_per_step``: distinct items × kept layers × width × bytes of a number, read through the file's
        mapping, so from the disk only what the host does not hold in memory. Over all modalities, and under
        ``modalities`` for each of them.
    """
    if not caches:
        return None
    parts = {
        modality: {
            "seconds": cache.seconds,
            "bytes": cache.size,
            "bytes_per_step": items_per_step * int(np.prod(cache.states.shape[1:])) * cache.states.dtype.itemsize,
            "reused": cache.reused,
        }
        for modality, cache in caches.items()
    }
    totals = {key: sum(part[key] for part in parts.values()) for key in ("seconds", "bytes", "bytes_per_step")}
    return {**totals, "reused": all(cache.reused for cache in caches.values()), "modalities": parts}


def compute_rate(flops: Flops, items: int, step_seconds: float) -> dict[str, Any]:
    """The ``compute`` entry of a record: operations of a median step over the seconds of the median step.

    The columns ``flops_forward`` and ``flops_backward`` are of the largest batch, that of the memory account, and most
    steps take less. Here stand those of the batch with the median number of distinct items, since what a step computes
    grows with that number.

    Args:
        flops: of that batch, forward and backward; the optimizer has no products to count.
        items: its distinct items.
        step_seconds: the median timed step, waiting for data and the optimizer included.
    """
    return {
        "items": items,
        "flops_forward": flops.forward,
        "flops_backward": flops.backward,
        "step_seconds": step_seconds,
        "model_flops_per_second": (flops.forward + flops.backward) / step_seconds,
    }
