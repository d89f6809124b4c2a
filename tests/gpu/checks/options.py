"""Lines of two settings: cuDNN's attention, and fp16."""

from __future__ import annotations

from collections.abc import Iterator

from tests.gpu.checks.cached import apart
from tests.gpu.checks.cells import ended_ok
from tests.gpu.line import NEEDS_CARD, Line, at_most, equal, skipped
from tests.gpu.runs import Runs


def cudnn(runs: Runs) -> Iterator[Line]:
    """LoRA with cuDNN's attention, which may build a plan per number of items, and without."""
    reason = NEEDS_CARD if runs.dry else "a run has no option that chooses the kernel of attention"
    yield skipped("lora: losses with cuDNN's attention", reason)
    yield skipped("lora: seconds without cuDNN's attention", reason)


def fp16(runs: Runs) -> Iterator[Line]:
    """Full fine-tuning in fp16 with its loss scaler, and the same steps in the precision of the other cells."""
    scaled, usual = ended_ok(runs.first().records["fft"]), ended_ok(runs.cells()["fft"])
    yield equal("fft: steps in fp16", scaled.row["steps"], runs.scale.first_steps)
    precision = usual.row["precision"]
    yield at_most(f"fft: losses in fp16 against those in {precision}", apart(scaled, usual), 2, "%")
