"""Trains one built-in encoder and writes its folder: weights, configuration, preprocessing, and what probes find."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.data.shop import world
from bench.models.pretrain import image, text
from bench.models.pretrain.burial import Burial
from bench.models.pretrain.linear_probe import linear_probe
from bench.models.pretrain.settings import DEPTH, WIDTH
from bench.utils.errors import UserError

# Folder -> number of steps, the longest first, so that two workers end together.
STEPS = {"image-absent": 3500, "image-full": 3500, "text-absent": 1300, "text-full": 1300}
# Folder -> number of steps for encoders that continue from the full one of their modality.
CONTINUED = {"image-buried": 800, "text-buried": 600}
# Modality -> attribute that the absent encoder is not taught and the buried one does not show in the last layer.
WITHHELD = {"text": "purpose", "image": "pattern"}
PEAK_LR, WARMUP = 1e-3, 100
PROBED = (*range(0, DEPTH + 1, 2), "output")


def build(name: str, out: Path, seed: int = 7, steps: int | None = None) -> None:
    """Pretrain one encoder and write its folder.

    Args:
        name: folder name, modality and kind of knowledge, such as ``text-buried``.
        out: folder to write; an encoder that continues from another one reads that one's folder beside it.
        seed: seed of the weights and of the data.
        steps: number of training steps; by default those of the shipped weights.

    Raises:
        UserError: the encoder to continue from is not there.
    """
    modality, kind = name.split("-")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started = time.perf_counter()
    steps = steps or (STEPS | CONTINUED)[name]
    train = _train_text if modality == "text" else _train_image
    model, loss = train(kind, _start(name, out), steps, seed)
    out.mkdir(parents=True, exist_ok=True)
    preprocessing: Any = text.tokenizer() if modality == "text" else image.processor()
    preprocessing.save_pretrained(out)
    model.config.save_pretrained(out)
    half = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors makes the file readable for its owner only
    # Probes are of the weights as written, in 16 bit.
    model.load_state_dict({key: value.float() for key, value in half.items()})
    facts = {"steps": steps, "seed": seed, "final_loss": round(loss, 4), **probes(model, modality, seed)}
    (out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {time.perf_counter() - started:.0f} s {json.dumps(facts)}", file=sys.stderr, flush=True)


def _start(name: str, out: Path) -> dict[str, Tensor] | None:
    """Weights to continue from; None for an encoder that starts from random ones."""
    if name not in CONTINUED:
        return None
    weights = out.parent / f"{name.partition('-')[0]}-full" / "model.safetensors"
    if not weights.is_file():
        raise UserError(f"{name} continues from {weights.parent.name}, and there is no {weights}; pretrain that first")
    return {key: value.float() for key, value in load_file(weights).items()}


def _train_text(kind: str, start: dict[str, Tensor] | None, steps: int, seed: int) -> tuple[Any, float]:
    n_words = len(text.tokenizer())
    model, head = text.new_model(n_words), nn.Linear(WIDTH, n_words)
    burial = Burial(WIDTH, world.SIZES["purpose"], steps, n_last=1) if kind == "buried" else None
    if start:
        model.load_state_dict(start)
    modules = [model, head, *([burial] if burial else [])]
    return model, _train(modules, text.losses(model, head, kind == "full", seed, burial), steps)


def _train_image(kind: str, start: dict[str, Tensor] | None, steps: int, seed: int) -> tuple[Any, float]:
    taught = image.TRAITS if kind == "full" else ("category", "colour")
    model, heads = image.new_model(), nn.ModuleDict({t: nn.Linear(WIDTH, world.SIZES[t]) for t in taught})
    if kind != "buried":
        return model, _train([model, heads], image.losses(model, heads, seed), steps)
    burial = Burial(WIDTH, world.SIZES["pattern"], steps, n_last=2)
    if start:
        model.load_state_dict(start)
    return model, _train([model, heads, burial], image.burial_losses(model, heads, seed, burial), steps)


def _train(modules: list[nn.Module], losses: Iterator[Tensor], steps: int) -> float:
    """Train with AdamW, linear warm-up and linear decay; return the last loss."""
    parameters = [p for m in modules for p in m.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / WARMUP, max(0.0, (steps - s) / max(1, steps - WARMUP)))
    )
    loss = torch.tensor(float("nan"))
    for step in range(steps):
        loss = next(losses)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"step {step + 1}/{steps} loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return loss.item()


def probes(model: Any, modality: str, seed: int, n: int = 3000) -> dict[str, Any]:
    """Linear-probe accuracy of every attribute of the modality in the [CLS] state.

    Returns:
        ``probe_layers``, which are layers 0 (the embeddings), 2, ... 12 and the encoder's output, which a ViT computes
        from layer 12 by one more LayerNorm; and ``probes``, attribute -> accuracy in each of them.
    """
    torch.manual_seed(seed)
    rng = world.stream(seed, "probe", modality)
    traits = world.draw_traits(n, rng)
    if modality == "text":
        inputs = text.probe_inputs(traits, rng)
    else:
        inputs = {"pixel_values": image.normalise(torch.from_numpy(image.draw_all(traits, seed + 1)))}
    states = cls_states(model.eval(), inputs)
    return {
        "probe_layers": list(PROBED),
        "probes": {
            name: [
                round(linear_probe(states[at], torch.from_numpy(getattr(traits, name)), world.SIZES[name]), 3)
                for at in PROBED
            ]
            for name in (text.TRAITS if modality == "text" else image.TRAITS)
        },
    }


def cls_states(model: Any, inputs: dict[str, Tensor]) -> dict[int | str, Tensor]:
    """[CLS] states, (n, width) each, after layers 0 (the embeddings) to depth and of the encoder's ``output``."""
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    states: dict[int | str, Tensor] = {layer: state[:, 0].clone() for layer, state in enumerate(out.hidden_states)}
    return states | {"output": out.last_hidden_state[:, 0].clone()}


def record_digests(out: Path) -> None:
    """Write ``digests.json``: the SHA-256 of every weights file, by folder name."""
    files = sorted(out.glob("*/model.safetensors"))
    digests = {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (out / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
