"""Data-sheet values of known GPUs, and the roofline: a lower bound of the time that work takes on a card."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from bench.utils.errors import UserError
from bench.utils.text import did_you_mean

GIB = 2**30
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Card:
    """Data-sheet values of a GPU.

    Attributes:
        name: the name for ``--card``.
        memory_bytes: nominal memory; driver and context take part of it.
        bandwidth: memory bandwidth, bytes per second.
        fp32: peak of 32-bit products without TF32, which torch does not use by default; operations per second.
        half: peak of dense 16-bit products accumulated in 32 bit, as in cuBLAS by default; operations per second.
            Data-sheet values "with sparsity" are twice as high and do not apply.
        bf16: True if ``half`` holds for bfloat16 too; cards before Ampere have no units for bfloat16.
        source: the maker's document with these values.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    fp32: float
    half: float
    bf16: bool
    source: str

    def peak(self, precision: str) -> float | None:
        """Peak operations per second in a precision ("fp32", "bf16", "fp16"); None if the card does not support it."""
        if precision == "fp32":
            return self.fp32
        return None if precision == "bf16" and not self.bf16 else self.half


def _card(
    name: str, memory: int, bandwidth: float, fp32: float, half: float, source: str, *, bf16: bool = True
) -> Card:
    """A card from values in the units of data sheets: GB, GB/s, TFLOPS."""
    return Card(name, memory * GIB, bandwidth * GIGA, fp32 * TERA, half * TERA, bf16, source)


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        _card("v100", 16, 900, 15.7, 125, "NVIDIA V100 Tensor Core GPU data sheet (2020), SXM2, 16 GB", bf16=False),
        _card("v100-32g", 32, 900, 15.7, 125, "NVIDIA V100 Tensor Core GPU data sheet (2020), SXM2, 32 GB", bf16=False),
        _card("t4", 16, 320, 8.1, 65, "NVIDIA T4 product page and data sheet (2019)", bf16=False),
        _card("a10", 24, 600, 31.2, 125, "NVIDIA A10 Tensor Core GPU data sheet (2021)"),
        _card("a30", 24, 933, 10.3, 165, "NVIDIA A30 Tensor Core GPU data sheet (2022)"),
        _card("a40", 48, 696, 37.4, 149.7, "NVIDIA A40 data sheet (2021)"),
        _card("a100-40g", 40, 1555, 19.5, 312, "NVIDIA A100 Tensor Core GPU data sheet (2020), 40 GB"),
        _card("a100-80g", 80, 2039, 19.5, 312, "NVIDIA A100 Tensor Core GPU data sheet (2021), 80 GB SXM"),
        _card("a100-80g-pcie", 80, 1935, 19.5, 312, "NVIDIA A100 Tensor Core GPU data sheet (2021), 80 GB PCIe"),
        _card("l4", 24, 300, 30.3, 121, "NVIDIA L4 Tensor Core GPU data sheet (2023)"),
        _card("l40", 48, 864, 90.5, 181.05, "NVIDIA L40 data sheet (2023)"),
        _card("l40s", 48, 864, 91.6, 366.5, "NVIDIA L40S data sheet (2023), half of the figure with sparsity"),
        _card(
            "h100-sxm",
            80,
            3350,
            67,
            989.5,
            "NVIDIA H100 Tensor Core GPU data sheet (2023), SXM, half of that with sparsity",
        ),
        _card(
            "h100-pcie",
            80,
            2000,
            51,
            756.5,
            "NVIDIA H100 Tensor Core GPU data sheet (2023), PCIe, half of that with sparsity",
        ),
        _card(
            "h200",
            141,
            4800,
            67,
            989.5,
            "NVIDIA H200 Tensor Core GPU data sheet (2024), SXM, half of that with sparsity",
        ),
        _card("rtx3090", 24, 936, 35.6, 71, "NVIDIA Ampere GA102 GPU architecture white paper (2021), RTX 3090"),
        _card("rtx4090", 24, 1008, 82.6, 165.2, "NVIDIA Ada GPU architecture white paper (2022), RTX 4090"),
    )
}

_DRIVER_NAMES = {
    "v100-sxm2-16gb": "v100",
    "v100-sxm2-32gb": "v100-32g",
    "t4": "t4",
    "a10": "a10",
    "a30": "a30",
    "a40": "a40",
    "a100-sxm4-40gb": "a100-40g",
    "a100-pcie-40gb": "a100-40g",
    "a100-sxm4-80gb": "a100-80g",
    "a100 80gb pcie": "a100-80g-pcie",
    "l4": "l4",
    "l40": "l40",
    "l40s": "l40s",
    "h100 80gb hbm3": "h100-sxm",
    "h100 pcie": "h100-pcie",
    "h200": "h200",
    "rtx 3090": "rtx3090",
    "rtx 4090": "rtx4090",
}
"""Name of a card by the driver's name, lower-cased and without maker and brand."""


class Roof(NamedTuple):
    """Upper limits of a card: operations per second, and bytes per second of its memory."""

    peak_flops: float
    bandwidth: float


class Work(NamedTuple):
    """A part of a computation: FLOPs of its matrix products, and bytes moved between memory and processor."""

    flops: float
    moved: float


def find_card(name: str) -> Card:
    """The card with a name, in upper or lower case.

    Raises:
        UserError: unknown card; the message has the nearest known name.
    """
    wanted = name.lower()
    if wanted in CARDS:
        return CARDS[wanted]
    variants = [known for known in CARDS if known.startswith(f"{wanted}-")]
    hint = f"; there are {', '.join(variants)}" if variants else did_you_mean(wanted, CARDS)
    raise UserError(f"--card {name}: unknown card{hint}")


def card_of(gpu_name: str) -> Card | None:
    """The card with a driver's or torch's name, such as "NVIDIA H100 80GB HBM3"; None if the card is not certain.

    A name must match as a whole, because a similar name may be another card: an A10G has half the units of an A10, an
    H100 NVL has other memory, and a name with "MIG" is a slice of a card.
    """
    words = gpu_name.lower().split()
    while words and words[0] in ("nvidia", "tesla", "geforce"):
        del words[0]
    known = _DRIVER_NAMES.get(" ".join(words))
    return None if known is None else CARDS[known]


def roof_of(card: Card, precision: str) -> Roof:
    """Roof of a card in a precision.

    Raises:
        UserError: the card does not support the precision.
    """
    peak = card.peak(precision)
    if peak is None:
        raise UserError(f"--card {card.name}: has no units for {precision}; choose --precision fp16")
    return Roof(peak, card.bandwidth)


def lower_bound(roof: Roof, work: Iterable[Work]) -> float:
    """Minimum seconds for parts of work done one after the other.

    Each part takes at least the time of its products and at least that of its memory traffic (Williams et al. 2009).

    Raises:
        ValueError: the roof is not positive and finite.
    """
    if not all(math.isfinite(limit) and limit > 0 for limit in roof):
        raise ValueError(f"a roof must be positive and finite, not {roof}")
    return sum(max(part.flops / roof.peak_flops, part.moved / roof.bandwidth) for part in work)
