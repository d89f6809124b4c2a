"""Share of the wall time of traced steps during which a kernel ran on the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Span = tuple[float, float]


def gpu_busy_share(events: Iterable[Mapping[str, Any]]) -> float | None:
    """Time within the steps in which at least one kernel ran, divided by the time of the steps.

    Kernels that overlap, as on several streams, count once; copies between host and GPU are no kernels. The profiler
    slows the host down and not the kernels, so the share is below that of steps without a trace.

    Args:
        events: entries of ``traceEvents`` in a trace of torch's profiler, with the spans of its steps.

    Returns:
        The share; None if the trace holds no step or no kernel.
    """
    steps, kernels = [], []
    for event in events:
        if event.get("ph") != "X":
            continue
        span = (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        if event.get("cat") == "kernel":
            kernels.append(span)
        # The profiler marks a step on the host and once more on the GPU; the wall time is that of the host.
        elif event.get("cat") == "user_annotation" and str(event["name"]).startswith("ProfilerStep"):
            steps.append(span)
    if not steps or not kernels:
        return None
    busy = sum(_shared(step, kernel) for kernel in _union(kernels) for step in steps)
    return busy / sum(end - start for start, end in steps)


def _union(spans: Iterable[Span]) -> list[Span]:
    """The same time as disjoint spans, in order."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((start, end))
    return merged


def _shared(first: Span, second: Span) -> float:
    return max(0.0, min(first[1], second[1]) - max(first[0], second[0]))
