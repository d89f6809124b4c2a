"""Helpers that tests of several packages use: a call of the command line, encoders and inputs for them."""

from pathlib import Path

import torch

import run_bench
from bench.models.backbones import locate
from bench.models.encoders import Encoder

ROOT = Path(__file__).parents[1]


def encoder(folder: Path, modality: str) -> Encoder:
    return Encoder.from_source(locate(str(folder), modality))  # type: ignore[arg-type]


def text_inputs(n: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(n, 9, dtype=torch.long)
    mask[1, 6:] = 0
    mask[3, 4:] = 0
    return {"input_ids": torch.randint(5, 280, (n, 9), generator=generator), "attention_mask": mask}


def image_inputs(n: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {"pixels": torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=generator)}


def inputs(modality: str, n: int = 5) -> dict[str, torch.Tensor]:
    return text_inputs(n) if modality == "text" else image_inputs(n)


def call(*arguments: str) -> int:
    """Exit status of a command that runs in this process."""
    try:
        return run_bench.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
