"""The data sheets' figures against what the chips are made of, and the roofline by hand."""

from __future__ import annotations

import pytest

from bench.scoring.roofline import CARDS, Roof, Work, card_of, find_card, lower_bound, roof_of
from bench.utils.errors import UserError

# Name -> multiprocessors; operations per clock and multiprocessor in 32 bit and, on tensor cores, in 16; boost clock of
# each in GHz; width of the memory bus in bits and its rate per pin in Gbit/s.
CHIPS = {
    "v100": (80, 128, 1024, 1.53, 1.53, 4096, 1.752),
    "v100-32g": (80, 128, 1024, 1.53, 1.53, 4096, 1.752),
    "t4": (40, 128, 1024, 1.59, 1.59, 256, 10),
    "a10": (72, 256, 1024, 1.695, 1.695, 384, 12.5),
    "a30": (56, 128, 2048, 1.44, 1.44, 3072, 2.43),
    "a40": (84, 256, 1024, 1.74, 1.74, 384, 14.5),
    "a100-40g": (108, 128, 2048, 1.41, 1.41, 5120, 2.43),
    "a100-80g": (108, 128, 2048, 1.41, 1.41, 5120, 3.186),
    "a100-80g-pcie": (108, 128, 2048, 1.41, 1.41, 5120, 3.024),
    "l4": (58, 256, 1024, 2.04, 2.04, 192, 12.5),
    "l40": (142, 256, 512, 2.49, 2.49, 384, 18),
    "l40s": (142, 256, 1024, 2.52, 2.52, 384, 18),
    "h100-sxm": (132, 256, 4096, 1.98, 1.83, 5120, 5.235),
    "h100-pcie": (114, 256, 4096, 1.755, 1.62, 5120, 3.186),
    "h200": (132, 256, 4096, 1.98, 1.83, 6144, 6.25),
    "rtx3090": (82, 256, 512, 1.695, 1.695, 384, 19.5),
    "rtx4090": (128, 256, 512, 2.52, 2.52, 384, 21),
}


def test_every_card_is_checked() -> None:
    assert set(CHIPS) == set(CARDS)
    assert all(name == card.name for name, card in CARDS.items())
    assert all(card.source for card in CARDS.values())


@pytest.mark.parametrize("name", CHIPS)
def test_the_figures_follow_from_the_chip(name: str) -> None:
    card = CARDS[name]
    units, single, half, clock, tensor_clock, bits, rate = CHIPS[name]
    assert card.fp32 == pytest.approx(units * single * clock * 1e9, rel=0.01)
    assert card.half == pytest.approx(units * half * tensor_clock * 1e9, rel=0.01)
    assert card.bandwidth == pytest.approx(bits * rate / 8 * 1e9, rel=0.025)


@pytest.mark.parametrize("name", CARDS)
def test_a_card_computes_what_its_generation_can(name: str) -> None:
    card = CARDS[name]
    older = name.startswith(("v100", "t4"))
    assert card.peak("bf16") == (None if older else card.half)
    assert card.peak("fp16") == card.half > card.fp32 == card.peak("fp32")


@pytest.mark.parametrize(
    ("name", "gib"), [("v100", 16), ("v100-32g", 32), ("a100-40g", 40), ("a100-80g", 80), ("h200", 141), ("l40s", 48)]
)
def test_memory(name: str, gib: int) -> None:
    assert CARDS[name].memory_bytes == gib * 1024**3


def test_names_are_found_and_missed() -> None:
    assert find_card("A100-80G") is CARDS["a100-80g"]
    with pytest.raises(UserError, match=r"^--card a100-80: unknown card; did you mean 'a100-80g(-pcie)?'\?$"):
        find_card("a100-80")
    with pytest.raises(UserError, match=r"^--card h100: unknown card; there are h100-sxm, h100-pcie$"):
        find_card("h100")
    with pytest.raises(UserError, match=r"--card abacus: unknown card; known: a10, a100-40g, .*v100"):
        find_card("abacus")


# As nvidia-smi and torch print them. That each names its card can be told from the name: chip, form and memory.
DRIVER_NAMES = {
    "v100": ["Tesla V100-SXM2-16GB"],
    "v100-32g": ["Tesla V100-SXM2-32GB"],
    "t4": ["Tesla T4", "NVIDIA T4"],
    "a10": ["NVIDIA A10"],
    "a30": ["NVIDIA A30"],
    "a40": ["NVIDIA A40"],
    "a100-40g": ["NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"],
    "a100-80g": ["NVIDIA A100-SXM4-80GB"],
    "a100-80g-pcie": ["NVIDIA A100 80GB PCIe"],
    "l4": ["NVIDIA L4"],
    "l40": ["NVIDIA L40"],
    "l40s": ["NVIDIA L40S"],
    "h100-sxm": ["NVIDIA H100 80GB HBM3"],
    "h100-pcie": ["NVIDIA H100 PCIe"],
    "h200": ["NVIDIA H200"],
    "rtx3090": ["NVIDIA GeForce RTX 3090", "GeForce RTX 3090"],
    "rtx4090": ["NVIDIA GeForce RTX 4090"],
}


@pytest.mark.parametrize("name", CARDS)
def test_a_card_is_known_by_what_the_driver_calls_it(name: str) -> None:
    assert [card_of(said) for said in DRIVER_NAMES[name]] == [CARDS[name]] * len(DRIVER_NAMES[name])


@pytest.mark.parametrize(
    "said",
    [
        "NVIDIA A10G",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 NVL",
        "NVIDIA H100 80GB HBM2e",
        "NVIDIA H200 NVL",
        "NVIDIA GH200 480GB",
        "Tesla V100-PCIE-16GB",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA RTX A4000",
        "AMD Instinct MI300X",
        "NVIDIA",
        "",
    ],
)
def test_what_only_sounds_like_a_card_is_not_taken_for_it(said: str) -> None:
    assert card_of(said) is None


def test_a_precision_that_the_card_lacks_is_refused() -> None:
    assert roof_of(CARDS["t4"], "fp16") == Roof(65e12, 320e9)
    assert roof_of(CARDS["t4"], "fp32").peak_flops == 8.1e12
    with pytest.raises(UserError, match="--card t4: has no units for bf16; choose --precision fp16"):
        roof_of(CARDS["t4"], "bf16")


def test_the_roofline_by_hand() -> None:
    roof = Roof(peak_flops=100.0, bandwidth=10.0)
    assert lower_bound(roof, [Work(200, 10)]) == 2.0, "its products take 2 s, its traffic 1 s"
    assert lower_bound(roof, [Work(200, 50)]) == 5.0, "its traffic takes 5 s"
    assert lower_bound(roof, [Work(200, 10), Work(0, 40), Work(300, 30)]) == 2.0 + 4.0 + 3.0
    assert lower_bound(roof, []) == 0


@pytest.mark.parametrize("roof", [Roof(0, 1), Roof(1, -1), Roof(float("inf"), 1), Roof(1, float("nan"))])
def test_a_roof_that_is_none_is_refused(roof: Roof) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        lower_bound(roof, [Work(1, 1)])
