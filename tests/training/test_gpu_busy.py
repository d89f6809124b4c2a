"""The GPU's busy share, on traces written by hand."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bench.training.gpu_busy import gpu_busy_share


def event(cat: str, start: float, end: float, name: str = "k") -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": end - start}


def step(place: int, start: float, end: float) -> dict[str, Any]:
    return event("user_annotation", start, end, f"ProfilerStep#{place}")


def test_overlapping_kernels_count_once() -> None:
    events = [
        step(1, 0, 100),
        event("kernel", 10, 30),
        event("kernel", 20, 40),  # another stream: 10 to 40 are 30, not 40
        event("kernel", 22, 25),  # within another one
        event("kernel", 60, 70),
    ]
    assert gpu_busy_share(events) == pytest.approx(0.4)
    assert gpu_busy_share(reversed(events)) == pytest.approx(0.4)


def test_only_kernels_within_steps_count() -> None:
    events = [
        step(1, 0, 100),
        step(2, 150, 250),
        event("kernel", -20, 10),  # 10 of it within
        event("kernel", 90, 160),  # 10 in each step, none between them
        event("kernel", 300, 400),
        event("gpu_memcpy", 20, 80),
        event("cpu_op", 20, 80),
        event("gpu_user_annotation", 0, 300, "ProfilerStep#1"),  # the GPU's mark of a step
        {"ph": "i", "cat": "kernel", "name": "mark", "ts": 50},
    ]
    assert gpu_busy_share(events) == pytest.approx(30 / 200)


def test_without_steps_or_kernels_it_is_unknown() -> None:
    assert gpu_busy_share([]) is None
    assert gpu_busy_share([step(1, 0, 100), event("cpu_op", 0, 50)]) is None
    assert gpu_busy_share([event("kernel", 0, 50)]) is None


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_share_of_the_ticks_with_a_kernel(seed: int) -> None:
    draw = random.Random(seed)
    starts = [draw.randrange(300) for _ in range(25)]
    kernels = [(start, start + draw.randrange(1, 12)) for start in starts]
    steps = [(0, 90), (100, 240)]
    ticks = [tick for start, end in steps for tick in range(start, end)]
    busy = sum(any(start <= tick < end for start, end in kernels) for tick in ticks)
    events = [step(place, *span) for place, span in enumerate(steps)] + [event("kernel", *span) for span in kernels]
    assert gpu_busy_share(events) == pytest.approx(busy / len(ticks))
