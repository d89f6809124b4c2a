"""Readings of the stand-in for NVML."""

from __future__ import annotations

from collections.abc import Mapping

from bench.measure.nvml import NvmlReading, NvmlSampler
from tests.measure.fake_nvml import (
    A,
    FakeDevice,
    FakeNvml,
    ticking,
)


def read(card: FakeDevice, refused: Mapping[str, Exception] | None = None, pauses: int = 0) -> NvmlReading:
    """Two samples, one at each end and 2 s apart, and two more per pause."""
    nvml = FakeNvml([card], refused)
    times = ticking()
    with NvmlSampler(A, interval=60, pynvml=nvml, now=lambda: next(times)) as sampler:
        for _ in range(pauses):
            with sampler.paused():
                pass
    assert sampler.reason is None
    assert sampler.reading is not None
    assert nvml.open == 0
    return sampler.reading
