"""Gradient checkpointing: the same numbers for less memory and more FLOPs, planned as measured, another cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cell.assemble import build_model
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.models.encoders import checkpoint_gradients
from bench.utils.errors import UserError
from methods.peft.tuner import Tuner
from tests.helpers import encoder, inputs, text_inputs
from tests.tiny import cell_of, matrix

Folders = dict[str, Path]
FAMILIES = {"text": "bert", "image": "vit"}


def cell(name: str, on: bool, model_folders: Folders) -> Cell:
    training = matrix(model_folders)["training"] | {"gradient_checkpointing": on}
    return cell_of(name, model_folders, training=training, budget={"steps": 2, "batch_size": 16})


def gradients(name: str, on: bool, model_folders: Folders) -> list[torch.Tensor]:
    """Of the item vectors of one batch, dropout on."""
    encoders = {m: encoder(model_folders[family], m) for m, family in FAMILIES.items()}
    spec = cell(name, on, model_folders)
    built = build_model(spec, build_method(spec.method, "t"), {}, encoders)
    items: Any = built.model.train().item_encoder
    torch.manual_seed(6)
    items({**inputs("text"), **inputs("image")}).square().sum().backward()
    parameters = [p for group in built.groups[:-1] for p in group.parameters]
    assert all(p.grad is not None for p in parameters)
    return [p.grad for p in parameters if p.grad is not None]


@pytest.mark.parametrize("name", ["fft", "bitfit", "adapter", "lora", "prefix", "peft"])
def test_gradients_are_the_same(name: str, model_folders: Folders) -> None:
    for kept, again in zip(*(gradients(name, on, model_folders) for on in (False, True)), strict=True):
        assert torch.allclose(kept, again, atol=1e-6)


@pytest.mark.slow
def test_a_cell_takes_less_memory_and_more_operations(model_folders: Folders, tmp_path: Path) -> None:
    specs = [cell("lora", on, model_folders) for on in (False, True)]
    assert specs[0].cell_id != specs[1].cell_id
    kept, again = (run_cell(spec, tmp_path / spec.cell_id, lambda _: None) for spec in specs)
    assert again["row"]["status"] == "ok"
    assert [p["loss"] for p in again["curve"]] == pytest.approx([p["loss"] for p in kept["curve"]], abs=1e-5)
    assert again["row"]["peak_memory_bytes"] < kept["row"]["peak_memory_bytes"]
    forward = kept["row"]["flops_forward"]
    assert again["row"]["flops_forward"] == forward
    more = again["row"]["flops_backward"] - kept["row"]["flops_backward"]
    assert 0.8 * forward < more <= forward  # the layers once more, and neither embeddings nor heads
    assert again["training"]["gradient_checkpointing"] is True
    for column in ("peak_memory_bytes", "flops_backward"):
        assert again["plan"][column] == again["row"][column]


def test_what_does_not_support_it_says_so(model_folders: Folders) -> None:
    with pytest.raises(UserError, match="gradient_checkpointing: Alone does not support it"):
        checkpoint_gradients(alone())
    e = encoder(model_folders["bert"], "text")
    model = e.model
    Tuner(peft={"type": "PREFIX_TUNING", "num_virtual_tokens": 3}).adapt(e)
    checkpoint_gradients(model)
    with pytest.raises(UserError, match="gradient_checkpointing: transformers drops"):
        e(text_inputs())


def alone() -> Any:
    from transformers import PretrainedConfig, PreTrainedModel

    class Alone(PreTrainedModel):
        config_class = PretrainedConfig

    return Alone(PretrainedConfig())
