"""Published costs of the methods, and random tables of costs."""

from __future__ import annotations

import random

# Scientific, batch 32 (arXiv 2404.02059): seconds of an epoch, trainable parameters, GB. Adapter and LoRA are given as
# ranges; the lower ends for one and the upper ends for the other are what the quoted scores come from. The figures of
# IISAN are given as savings against full fine-tuning.
PUBLISHED = {
    "fft": {"time": 443.0, "params": 194_897_216, "memory": 47.0},
    "adapter": {"time": 350.0, "params": 4_965_440, "memory": 37.0},
    "lora": {"time": 380.0, "params": 796_736, "memory": 39.0},
    "iisan": {"time": 443.0 * (1 - 0.60), "params": 4_113_877, "memory": 47.0 * (1 - 0.82)},
    "iisan-cached": {"time": 22.0, "params": 4_113_877, "memory": 3.0},
}


def random_table(seed: int, methods: int) -> dict[str, dict[str, float]]:
    draw = random.Random(seed)
    return {f"m{i}": {c: draw.lognormvariate(0, 2) for c in ("time", "params", "memory")} for i in range(methods)}
