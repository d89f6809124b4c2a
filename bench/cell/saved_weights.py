"""Trained weights of a cell on disk: a folder per encoder with a safetensors file and a JSON description.

    cells/<cell-id>/adapter/<modality>/{adapter_model.safetensors, adapter_config.json}

Folders of peft methods are in peft's own format; ``PeftModel.from_pretrained`` reads them on the unchanged backbone.
All other folders are in the format of this module. Methods that change an encoder save the encoder's trained weights
(:func:`load_encoder`); methods that read hidden states save their whole network with its head (:func:`load_network`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from bench.cell.assemble import shapes_of
from bench.config.cells import Cell
from bench.config.matrix import MethodConfig, build_method
from bench.models.backbones import Source
from bench.models.encoders import Encoder
from bench.utils.errors import UserError
from methods.base import EncoderMethod, HiddenMethod, ItemEncoder, Method, Outputs, Shape

SCHEMA = 1
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def save_adapters(cell: Cell, items: nn.Module, sources: Mapping[str, Source], folder: Path) -> None:
    """Write ``adapter/`` into a cell's folder; an encoder without trained weights gets no folder.

    Args:
        items: trained item encoder of the cell.
        sources: modality -> encoder source.
        folder: folder of the cell.

    Raises:
        OSError: a file cannot be written.
    """
    assert isinstance(items, ItemEncoder)
    facts = {
        "schema": SCHEMA,
        "method": cell.method.kind,
        "options": cell.method.options,
        "models": {m: cell.shown_model(m) for m in cell.modalities},
        "width": cell.training.width,
    }
    if isinstance(build_method(cell.method, "matrix"), HiddenMethod):
        shapes = {m: asdict(shape) for m, shape in shapes_of(sources).items()}
        _write(folder / "adapter" / cell.modality, items.head, facts | {"shapes": shapes})
        return
    assert isinstance(items.source, Outputs)
    for modality, encoder in items.source.encoders.items():
        target = folder / "adapter" / modality
        if modality in items.savers:
            target.mkdir(parents=True, exist_ok=True)
            items.savers[modality](target)
        elif any(p.requires_grad for p in encoder.parameters()):
            _write(target, encoder, facts | {"modality": modality})


def _write(folder: Path, module: nn.Module, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: p.detach().cpu().contiguous() for name, p in _trained(module).items()}
    save_file(tensors, folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def load_encoder(folder: Path, encoder: Encoder) -> None:
    """Adapt an unchanged encoder as the method did and load the trained weights into it.

    Args:
        folder: ``adapter/<modality>`` of a method that changes encoders without peft.
        encoder: encoder of the same model, changed in place.

    Raises:
        UserError: the folder cannot be read, or its weights are not of this encoder.
    """
    facts, method = _read(folder)
    if not isinstance(method, EncoderMethod) or facts.get("modality") != encoder.modality:
        raise UserError(f"{folder / CONFIG}: these are not weights of the {encoder.modality} encoder")
    encoder.requires_grad_(False)
    for parameter in method.adapt(encoder).parameters:
        parameter.requires_grad_(True)
    _fill(folder, encoder)


def load_network(folder: Path, source: nn.Module) -> ItemEncoder:
    """Load a saved item encoder on live or cached hidden states.

    Args:
        folder: ``adapter/<modalities>`` of a method that reads hidden states.
        source: source of the hidden states, from ``bench.models.hidden_states``.

    Raises:
        UserError: the folder cannot be read, or its weights are of another kind of method.
    """
    facts, method = _read(folder)
    if not isinstance(method, HiddenMethod):
        raise UserError(f"{folder / CONFIG}: these are not weights of a method that reads hidden states")
    shapes = {
        m: Shape(s["width"], s["depth"], None if s["widths"] is None else tuple(s["widths"]))
        for m, s in facts["shapes"].items()
    }
    items = method.build(source, shapes, facts["width"])
    _fill(folder, items.head)
    return items


def _read(folder: Path) -> tuple[dict[str, Any], Method]:
    path = folder / CONFIG
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        config = MethodConfig(name=facts["method"], kind=facts["method"], options=facts["options"])
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a description of saved weights ({type(error).__name__})") from error
    return facts, build_method(config, str(path))


@torch.no_grad()
def _fill(folder: Path, module: nn.Module) -> None:
    """Load saved values into the trained parameters of ``module``; names and shapes must be the same.

    Raises:
        UserError: the file cannot be read, or does not fit.
    """
    path = folder / TENSORS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    trained = _trained(module)
    different = sorted({name for name in {*trained, *tensors} if _shape(trained, name) != _shape(tensors, name)})
    if different:
        raise UserError(f"{path}: does not fit this encoder, e.g. {different[0]}")
    for name, parameter in trained.items():
        parameter.copy_(tensors[name])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
