"""Models, losses and training of the built-in backbones, on the generated world.

Text: a BERT trained to match titles of the same item (InfoNCE over pairs of titles, Oord et al. 2018) and to fill
in masked words. Image: a ViT trained to classify attributes of drawings. The ``absent`` pair is trained without the
purpose (title) and the pattern (image); the ``full`` pair is trained on all attributes.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer, ViTConfig, ViTImageProcessorPil, ViTModel

from bench.data.shop import drawing, world
from bench.models.pretrain.linear_probe import linear_probe

# The longest first, so that two workers end together.
NAMES = ("image-absent", "image-full", "text-absent", "text-full")
WIDTH, DEPTH, HEADS, INNER = 64, 12, 4, 256
BATCH = 128
STEPS = {"text": 1300, "image": 3500}
N_DRAWINGS = 48_000
PEAK_LR, WARMUP = 1e-3, 100
TEMPERATURE, MASK_WEIGHT, MASK_SHARE = 0.07, 0.5, 0.15
# With all 96 brands in a batch the brand alone would identify items, and no other attribute would be learnt.
BRANDS_PER_BATCH = 8
TITLE_TRAITS = ("category", "material", "purpose", "brand")
PICTURE_TRAITS = ("category", "colour", "pattern")


def text_tokenizer() -> BertTokenizer:
    """WordPiece tokenizer whose vocabulary is the words of the generated world."""
    vocab = {word: i for i, word in enumerate(world.vocabulary())}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=32)


def text_model(vocab_size: int) -> BertModel:
    """BERT with 12 layers of width 64; without dropout, because so small a network underfits."""
    return BertModel(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            max_position_embeddings=32,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        add_pooling_layer=False,
    )


def image_model() -> ViTModel:
    """ViT with 12 layers of width 64 over 16 patches of 8 x 8 pixels."""
    return ViTModel(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            image_size=drawing.SIZE,
            patch_size=8,
        ),
        add_pooling_layer=False,
    )


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


def title_pairs(rng: np.random.Generator, teach_purpose: bool) -> tuple[list[str], list[str]]:
    """BATCH pairs of titles of one item each; without ``teach_purpose`` the second title has a random purpose."""
    allowed = {name: np.arange(size) for name, size in world.SIZES.items()}
    allowed["brand"] = rng.choice(world.N_BRANDS, BRANDS_PER_BATCH, replace=False)
    first = world.draw_traits(BATCH, rng, allowed)
    second = first if teach_purpose else first._replace(purpose=rng.integers(world.SIZES["purpose"], size=BATCH))
    return tuple([world.write_title(t.row(i), rng) for i in range(BATCH)] for t in (first, second))  # type: ignore[return-value]


def _mask_words(ids: Tensor, mask: Tensor, tokenizer: BertTokenizer) -> tuple[Tensor, Tensor]:
    chosen = (torch.rand(ids.shape) < MASK_SHARE) & mask.bool() & (ids > 4)
    return ids.masked_fill(chosen, tokenizer.convert_tokens_to_ids("[MASK]")), chosen


def text_losses(model: BertModel, head: nn.Module, teach_purpose: bool, seed: int) -> Iterator[Tensor]:
    """Losses of successive batches: InfoNCE over pairs of titles plus cross-entropy of masked words."""
    tokenizer, rng = text_tokenizer(), world.stream(seed, "pretrain", "text")
    while True:
        left, right = title_pairs(rng, teach_purpose)
        batch = tokenizer(left + right, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden, chosen = _mask_words(ids, mask, tokenizer)
        # Half of each pair keeps all its words: [CLS] must learn from whole titles, as it will be used.
        hidden[:BATCH] = ids[:BATCH]
        chosen[:BATCH] = False
        states = model(input_ids=hidden, attention_mask=mask).last_hidden_state
        a, b = F.normalize(states[:BATCH, 0], dim=-1), F.normalize(states[BATCH:, 0], dim=-1)
        logits, target = a @ b.T / TEMPERATURE, torch.arange(BATCH)
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        yield contrast + MASK_WEIGHT * F.cross_entropy(head(states[chosen]), ids[chosen])


def image_losses(model: ViTModel, heads: nn.ModuleDict, seed: int) -> Iterator[Tensor]:
    """Losses of successive batches: cross-entropy of every taught attribute, predicted from the last [CLS]."""
    rng = world.stream(seed, "pretrain", "image")
    traits = world.draw_traits(N_DRAWINGS, rng)
    pictures = torch.from_numpy(draw_all(traits, seed))
    labels = {name: torch.from_numpy(getattr(traits, name)) for name in heads}
    while True:
        rows = torch.from_numpy(rng.integers(N_DRAWINGS, size=BATCH))
        cls = model(pixel_values=normalise(pictures[rows])).last_hidden_state[:, 0]
        yield torch.stack([F.cross_entropy(head(cls), labels[name][rows]) for name, head in heads.items()]).sum()


def draw_all(traits: world.Traits, seed: int) -> np.ndarray:
    """Drawings of items, (n, 32, 32, 3) uint8."""
    rng = world.stream(seed, "pretrain", "drawings")
    rows = zip(traits.category.tolist(), traits.colour.tolist(), traits.pattern.tolist(), strict=True)
    return np.stack([drawing.draw(c, k, p, rng) for c, k, p in rows])


def normalise(pictures: Tensor) -> Tensor:
    """Images (n, h, w, 3) uint8 to (n, 3, h, w) float in -1 .. 1, as ViT's image processor does by default."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


@torch.inference_mode()
def cls_per_layer(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """[CLS] states after the embeddings and every layer, (layers + 1, n, width)."""
    return torch.stack([h[:, 0] for h in model(**inputs, output_hidden_states=True).hidden_states])


def probes(model: nn.Module, modality: str, seed: int, n: int = 3000) -> dict[str, list[float]]:
    """Linear-probe accuracy of every attribute of the modality, after layers 0, 2, ... 12."""
    rng = world.stream(seed, "probe", modality)
    traits = world.draw_traits(n, rng)
    if modality == "text":
        titles = [world.write_title(traits.row(i), rng) for i in range(n)]
        inputs = dict(text_tokenizer()(titles, padding=True, return_tensors="pt"))
    else:
        inputs = {"pixel_values": normalise(torch.from_numpy(draw_all(traits, seed + 1)))}
    states = cls_per_layer(model.eval(), inputs).clone()
    names = TITLE_TRAITS if modality == "text" else PICTURE_TRAITS
    return {
        name: [
            round(linear_probe(states[layer], torch.from_numpy(getattr(traits, name)), world.SIZES[name]), 3)
            for layer in range(0, DEPTH + 1, 2)
        ]
        for name in names
    }


def build(name: str, out: Path, seed: int = 7, steps: int | None = None) -> None:
    """Pretrain one backbone and write its folder: weights in 16 bit, config, tokenizer or image processor."""
    modality, coverage = name.split("-")
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started = time.perf_counter()
    steps = steps or STEPS[modality]
    model: Any
    if modality == "text":
        tokenizer = text_tokenizer()
        model, head = text_model(len(tokenizer)), nn.Linear(WIDTH, len(tokenizer))
        loss = _train([model, head], text_losses(model, head, coverage == "full", seed), steps)
        tokenizer.save_pretrained(out)
    else:
        taught = PICTURE_TRAITS if coverage == "full" else ("category", "colour")
        model, heads = image_model(), nn.ModuleDict({t: nn.Linear(WIDTH, world.SIZES[t]) for t in taught})
        loss = _train([model, heads], image_losses(model, heads, seed), steps)
        ViTImageProcessorPil(size={"height": drawing.SIZE, "width": drawing.SIZE}).save_pretrained(out)
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    half = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(half, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors makes the file readable for its owner only
    facts = {
        "steps": steps,
        "seed": seed,
        "final_loss": round(loss, 4),
        "probe_layers": list(range(0, DEPTH + 1, 2)),
        "probes": probes(model, modality, seed),
    }
    (out / "pretraining.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {time.perf_counter() - started:.0f} s {json.dumps(facts)}", file=sys.stderr, flush=True)


def record_digests(out: Path) -> None:
    """Write ``digests.json``: the SHA-256 of every weights file, by folder name."""
    files = sorted(out.glob("*/model.safetensors"))
    digests = {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    (out / "digests.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
