"""What a cell trained, on disk: a folder per encoder with a safetensors file and a JSON of what it belongs to.

    cells/<cell-id>/adapter/<modality>/{adapter_model.safetensors, adapter_config.json}

Where peft trains, the folder is what peft itself writes, and ``PeftModel.from_pretrained`` reads it on the plain
backbone. Everything else is in the format of this file: of a method that changes an encoder its trained weights there
(:func:`load_encoder`), of one that reads hidden states its whole network, head included (:func:`load_network`).
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
    """Writes ``adapter/`` into a cell's folder; a method that trains nothing in an encoder leaves nothing of it.

    Raises:
        OSError: it cannot be written.
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
    """Adapts a plain encoder as the saved one was and gives it the trained weights.

    Args:
        folder: ``adapter/<modality>`` of a method that changes encoders and is not peft's.

    Raises:
        UserError: the folder cannot be read, or does not belong to such an encoder.
    """
    facts, method = _read(folder)
    if not isinstance(method, EncoderMethod) or facts.get("modality") != encoder.modality:
        raise UserError(f"{folder / CONFIG}: is of no method for an encoder of {encoder.modality}")
    encoder.requires_grad_(False)
    for parameter in method.adapt(encoder).parameters:
        parameter.requires_grad_(True)
    _fill(folder, encoder)


def load_network(folder: Path, source: nn.Module) -> ItemEncoder:
    """The item encoder that was saved, over hidden states live or cached.

    Args:
        folder: ``adapter/<modalities>`` of a method that reads hidden states.
        source: gives them, see ``bench.models.hidden_states``.

    Raises:
        UserError: the folder cannot be read, or is of another kind.
    """
    facts, method = _read(folder)
    if not isinstance(method, HiddenMethod):
        raise UserError(f"{folder / CONFIG}: is of no method that reads hidden states")
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
        raise UserError(f"{path}: is not what was written here ({type(error).__name__})") from error
    return facts, build_method(config, str(path))


@torch.no_grad()
def _fill(folder: Path, module: nn.Module) -> None:
    """Puts saved values into what trains in ``module``: all of it, and nothing else."""
    path = folder / TENSORS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    there = _trained(module)
    odd = sorted({name for name in {*there, *tensors} if _shape(there, name) != _shape(tensors, name)})
    if odd:
        raise UserError(f"{path}: does not fit this encoder, e.g. {odd[0]}")
    for name, parameter in there.items():
        parameter.copy_(tensors[name])


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def _shape(tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
