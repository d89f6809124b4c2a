"""Costs computed from measured values: epoch time, cache cost, FLOP rate. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench.measure.clock import Row
from bench.measure.flops import Flops
from bench.models.hidden_states import CacheFile


def epoch_times(rows: Sequence[Row], per_epoch: int) -> tuple[dict[str, Any], list[str]]:
    """Columns of a record with the duration of training, and warnings about them.

    Args:
        rows: rows of the clock, one per step, at least one.
        per_epoch: steps of a pass over all users.

    Returns:
        ``epochs``, ``steps``, ``step_seconds_median`` and ``epoch_seconds``. The last is the median over whole epochs;
        if no epoch was finished, it is the mean step time the steps of an epoch, with a warning.
    """
    seconds = np.array([row["seconds"] for row in rows], dtype=np.float64)
    whole = [seconds[i : i + per_epoch].sum() for i in range(0, len(seconds) - per_epoch + 1, per_epoch)]
    columns = {
        "epochs": len(seconds) / per_epoch,
        "steps": len(seconds),
        "step_seconds_median": float(np.median(seconds)),
        "epoch_seconds": float(np.median(whole)) if whole else float(seconds.mean() * per_epoch),
    }
    return columns, [] if whole else [f"epoch_seconds is extrapolated from {len(seconds)} steps"]


def cache_cost(caches: Mapping[str, CacheFile], items_per_step: float) -> dict[str, Any] | None:
    """Cost of the hidden-state cache, the ``cache`` entry of a record; None for a cell without a cache.

    Args:
        caches: cache file by modality.
        items_per_step: mean number of distinct items of a step.

    Returns:
        Over all modalities, and under ``modalities`` for each: ``seconds`` of building, in this cell or an earlier
        one; ``bytes`` on disk; ``reused``, True if no file had to be built; ``bytes_per_step`` read, which is distinct
        items × kept layers × width × bytes of a number. Files are memory-mapped, so only the part that the host does
        not hold in memory comes from the disk.
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


def compute_rate(flops: Flops, items: int, operators: int, step_seconds: float) -> dict[str, Any]:
    """Operators and FLOP rate of a typical step, the ``compute`` entry of a record.

    The columns ``flops_forward`` and ``flops_backward`` belong to the largest batch, that of the memory account, and
    most steps need fewer. This entry uses the batch with the median number of distinct items, because the FLOPs of a
    step grow with that number.

    Args:
        flops: FLOPs of the batch with the median number of items; the optimizer has no products to count.
        items: number of distinct items of that batch.
        operators: number of operators of a step on that batch, see ``bench.measure.operators``.
        step_seconds: median time of a step, waiting for data and the optimizer included.
    """
    return {
        "items": items,
        "operators_per_step": operators,
        "flops_forward": flops.forward,
        "flops_backward": flops.backward,
        "step_seconds": step_seconds,
        "model_flops_per_second": (flops.forward + flops.backward) / step_seconds,
    }
