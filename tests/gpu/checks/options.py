"""Lines of two settings: cuDNN's attention, and fp16."""

from __future__ import annotations

from collections.abc import Iterator

from tests.gpu.checks.cached import apart
from tests.gpu.checks.cells import ended_ok
from tests.gpu.line import NEEDS_CARD, Line, at_most, equal, skipped
from tests.gpu.runs import Runs


def cudnn(runs: Runs) -> Iterator[Line]:
    """LoRA with cuDNN's attention, which may build a plan per number of items, and without."""
    losses, seconds = "lora: losses with cuDNN's attention", "lora: seconds without cuDNN's attention"
    if runs.dry:
        yield skipped(losses, NEEDS_CARD)
        yield skipped(seconds, NEEDS_CARD)
        return
    usual, cudnn = ended_ok(runs.cells()["lora"]), ended_ok(runs.cudnn()["lora"])
    yield at_most(losses, apart(cudnn, usual), 2, "%")
    ratio = usual.row["step_seconds_median"] / cudnn.row["step_seconds_median"]
    yield at_most(seconds, ratio, 1.05, "of those with it")


def fp16(runs: Runs) -> Iterator[Line]:
    """Full fine-tuning in fp16 with its loss scaler, and the same steps in the precision of the other cells."""
    scaled, usual = ended_ok(runs.first().records["fft"]), ended_ok(runs.cells()["fft"])
    yield equal("fft: steps in fp16", scaled.row["steps"], runs.scale.first_steps)
    precision = usual.row["precision"]
    yield at_most(f"fft: losses in fp16 against those in {precision}", apart(scaled, usual), 2, "%")
