"""Known cards, and the roofline: how fast a card could be at best, by its maker's data sheet."""

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
    """One card.

    Attributes:
        name: what ``--card`` calls it.
        memory_bytes: as it is sold; driver and context take part of it.
        bandwidth: of its memory, bytes per second.
        fp32: products in 32 bit without TF32, which torch does not use for them unless told; operations per second.
        half: dense products of 16-bit numbers summed in 32 bit, as cuBLAS does by default; operations per second.
            Figures "with sparsity" are twice as high and of no use here.
        bf16: whether ``half`` holds for bfloat16 too; cards before Ampere have no units for it.
        source: the maker's document that the figures are from.
    """

    name: str
    memory_bytes: int
    bandwidth: float
    fp32: float
    half: float
    bf16: bool
    source: str

    def peak(self, precision: str) -> float | None:
        """Operations per second in a precision ("fp32", "bf16", "fp16"); None where the card has no units for it."""
        if precision == "fp32":
            return self.fp32
        return None if precision == "bf16" and not self.bf16 else self.half


def _card(
    name: str, memory: int, bandwidth: float, fp32: float, half: float, source: str, *, bf16: bool = True
) -> Card:
    """From the units of data sheets: GB, GB/s, TFLOPS."""
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

_AS_THE_DRIVER_SAYS = {
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
"""What the driver calls a card, in small letters and without maker and brand -> its name here."""


class Roof(NamedTuple):
    """What nothing on a card gets beyond: operations per second, and bytes per second of its memory."""

    peak_flops: float
    bandwidth: float


class Work(NamedTuple):
    """A stretch of computing: operations of its matrix products, and bytes that must cross the memory's bus."""

    flops: float
    moved: float


def find_card(name: str) -> Card:
    """The card of a name, however it is capitalised.

    Raises:
        UserError: unknown card, with the nearest known name.
    """
    wanted = name.lower()
    if wanted in CARDS:
        return CARDS[wanted]
    variants = [known for known in CARDS if known.startswith(f"{wanted}-")]
    hint = f"; there are {', '.join(variants)}" if variants else did_you_mean(wanted, CARDS)
    raise UserError(f"--card {name}: unknown card{hint}")


def card_of(gpu_name: str) -> Card | None:
    """The card that a driver or torch calls by a name such as "NVIDIA H100 80GB HBM3"; None where that is not certain.

    A name must match as a whole. What is close may be another card: an A10G has half the units of an A10, an H100 NVL
    other memory, and a name with "MIG" in it is a slice of a card.
    """
    words = gpu_name.lower().split()
    while words and words[0] in ("nvidia", "tesla", "geforce"):
        del words[0]
    known = _AS_THE_DRIVER_SAYS.get(" ".join(words))
    return None if known is None else CARDS[known]


def roof_of(card: Card, precision: str) -> Roof:
    """The roof of a card in a precision.

    Raises:
        UserError: the card computes nothing in it.
    """
    peak = card.peak(precision)
    if peak is None:
        raise UserError(f"--card {card.name}: has no units for {precision}; choose --precision fp16")
    return Roof(peak, card.bandwidth)


def lower_bound(roof: Roof, stretches: Iterable[Work]) -> float:
    """Seconds that stretches of work, one after the other, take at least: each its products or its traffic.

    Raises:
        ValueError: a roof that is not positive and finite.
    """
    if not all(math.isfinite(limit) and limit > 0 for limit in roof):
        raise ValueError(f"a roof must be positive and finite, not {roof}")
    return sum(max(work.flops / roof.peak_flops, work.moved / roof.bandwidth) for work in stretches)
