"""Tiny encoders, the matrix of a tiny run and its cells: shared by the tests of every package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DeiTConfig,
    DeiTModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from bench.cell.assemble import assemble
from bench.cell.planner import DataBatches, Plan, Planner
from bench.config.cells import Cell, cells
from bench.config.matrix import parse
from bench.data.batches import largest_batch, log_popularity
from bench.data.shop import world
from bench.measure.flops import Flops
from bench.measure.memory import MemoryAccount
from bench.training.loop import Trainer
from bench.training.probe import probe
from methods.registry import REGISTRY

TEXT_FAMILIES = ("bert", "distilbert")
IMAGE_FAMILIES = ("vit", "deit")
FAMILIES = (*TEXT_FAMILIES, *IMAGE_FAMILIES)
FamilyFolder = Callable[[str], Path]
VOCABULARY = {word: i for i, word in enumerate(world.vocabulary())}
SMALL = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 24}
PICTURE = {"image_size": 32, "patch_size": 16}
BASE: dict[str, Any] = {"name": "t", "methods": [{"name": "lora"}, {"name": "mine", "kind": "iisan", "bottleneck": 4}]}


def small_model(family: str) -> PreTrainedModel:
    """A randomly drawn encoder of a family, 4 layers of 24."""
    torch.manual_seed(0)
    match family:
        case "bert":
            return BertModel(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **SMALL))
        case "distilbert":
            return DistilBertModel(
                DistilBertConfig(
                    vocab_size=len(VOCABULARY), max_position_embeddings=40, dim=24, hidden_dim=48, n_layers=4, n_heads=2
                )
            )
        case "vit":
            return ViTModel(ViTConfig(**SMALL, **PICTURE))
        case "deit":
            return DeiTModel(DeiTConfig(**SMALL, **PICTURE))
    raise ValueError(family)


def save(family: str, folder: Path) -> None:
    """Saves an encoder as a user would have it: weights, configuration and, for text, a tokenizer."""
    small_model(family).save_pretrained(folder)
    if family in TEXT_FAMILIES:
        BertTokenizer(vocab=VOCABULARY, model_max_length=40).save_pretrained(folder)


def matrix(model_folders: dict[str, Path], **changes: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "device": "cpu",
        "dataset": {"items": 60, "users": 40},
        "backbones": [{"text": str(model_folders["bert"]), "image": str(model_folders["vit"])}],
        "budget": {"epochs": 2, "batch_size": 16},
        "training": {"width": 16, "logit_scale": 0.25, "lr_warmup_steps": 1, "timing_warmup_steps": 1},
        "methods": [{"name": name, "lr_head": 5e-3} for name in REGISTRY],
        **changes,
    }


def two_cells(model_folders: dict[str, Path]) -> dict[str, Any]:
    """Matrix of two cells that are over in two steps."""
    methods = [{"name": "frozen"}, {"name": "iisan-cached", "bottleneck": 4}]
    return matrix(model_folders, methods=methods, budget={"steps": 2, "batch_size": 16})


def begun_run(finished: Path, folder: Path) -> Path:
    """Makes a run folder in which the first of the two cells is done and the second one has not been started."""
    folder.mkdir()
    for name in ("matrix.toml", "environment.json", "dataset.json"):
        shutil.copy2(finished / name, folder / name)
    (first,) = finished.glob("cells/frozen--*")
    shutil.copytree(first, folder / "cells" / first.name)
    return folder


def cell_of(name: str, model_folders: dict[str, Path], **changes: Any) -> Cell:
    return next(c for c in cells(parse(matrix(model_folders, **changes), "t"), "cpu") if c.method.name == name)


def one_cell(model_folders: dict[str, Path], **changes: Any) -> Cell:
    return cells(parse(matrix(model_folders, methods=[{"name": "frozen"}], **changes), "t"), "cpu")[0]


def planned(cell: Cell) -> Plan:
    return Planner(cell).plan(DataBatches.of(cell), cell.budget.batch_size)


def measured(cell: Cell) -> tuple[MemoryAccount, Flops]:
    """As a cell measures, without its training."""
    assembly = assemble(cell, torch.device("cpu"))
    trainer = Trainer(assembly.model, assembly.groups, cell.training, cell.precision, torch.device("cpu"))
    batch = largest_batch(assembly.data.splits, cell.budget.batch_size, cell.seed)
    inputs = assembly.feed.gather(batch.unique)
    return probe(trainer, trainer.transfer(batch, inputs, log_popularity(assembly.data.splits)))
