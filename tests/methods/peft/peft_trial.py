"""Trains every tuner of the installed peft for a few steps on two tiny encoders and says how it went.

    python -m tests.methods.peft.peft_trial

writes ``methods/peft/peft_tuners.json``, which ``list --peft`` shows and a test holds against the installed peft.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from bench.models.encoders import Encoder
from bench.utils.errors import UserError
from methods.base import Step, StepHook
from methods.peft.tried_tuners import MODALITIES, TABLE
from methods.peft.tuner import EMBEDDED, PROMPTS, Prompted, Tuner
from tests.helpers import encoder, inputs
from tests.tiny import small_model

# Where peft's defaults are too large for encoders of width 24, or nothing can be a default.
OPTIONS: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 8},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "FOURIERFT": {"n_frequency": 50},
    "FROD": {"progressbar": False},
    "MISS": {"r": 4},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "PSOFT": {"r": 4},
    "P_TUNING": {"num_virtual_tokens": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "TRAINABLE_TOKENS": {"target_modules": ["word_embeddings"], "token_indices": [5, 6, 7]},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "WAVEFT": {"n_frequency": 50},
}
# What peft itself does not bring along: tuner -> module.
NEEDS = {"ADAMSS": "sklearn"}
FAMILIES = {"text": "bert", "image": "vit"}
STEPS = 8


def save_folders(base: Path) -> dict[str, Path]:
    """The two encoders, their biases drawn too: some tuners scale them, and scaled zeros stay zeros."""
    for family in FAMILIES.values():
        model = small_model(family)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02)
        model.save_pretrained(base / family)
    return {modality: base / family for modality, family in FAMILIES.items()}


def tuner(kind: str) -> Tuner:
    return Tuner(peft={"type": kind, **OPTIONS.get(kind, {})})


def trial(kind: str, modality: str, folder: Path) -> str:
    """What went wrong; "" if it trains, saves and comes back."""
    try:
        torch.manual_seed(0)
        e = encoder(folder, modality)
        e.requires_grad_(False)
        done = tuner(kind).adapt(e)
        said = trains(e, list(done.parameters), inputs(modality)) if done.modules else "nothing was adapted"
        if said:
            return said
        with tempfile.TemporaryDirectory() as saved:
            assert done.save is not None
            done.save(Path(saved))
            return comes_back(kind, e, folder, modality, Path(saved))
    except UserError as error:
        return str(error).removeprefix("option peft: ").removeprefix(f"{kind}: ").removeprefix(f"{kind} ")
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def trains(e: Encoder, parameters: list[torch.nn.Parameter], x: dict[str, torch.Tensor]) -> str:
    """Steps on one batch: what trains must change and nothing else, and the loss must fall."""
    trained = {id(p) for p in parameters}
    frozen = [p for p in e.parameters() if id(p) not in trained]
    before = [p.detach().clone() for p in (*parameters, *frozen)]
    goal = torch.randn(5, 24, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def loss() -> torch.Tensor:
        return (e(x) - goal).square().mean()

    with torch.no_grad():
        first = loss()
    e.train()
    hooks = [module for module in e.modules() if isinstance(module, StepHook)]
    for number in range(1, STEPS + 1):
        optimizer.zero_grad()
        sum((hook.penalty() for hook in hooks), loss()).backward()
        optimizer.step()
        for hook in hooks:
            hook.after(Step(number, STEPS))
    e.eval()
    with torch.no_grad():
        last = loss()
    moved = [not torch.equal(p, b) for p, b in zip((*parameters, *frozen), before, strict=True)]
    if not all(moved[: len(parameters)]):
        return f"{moved[: len(parameters)].count(False)} of {len(parameters)} trained tensors do not change"
    if any(moved[len(parameters) :]) or any(p.grad is not None for p in frozen):
        return "frozen weights change"
    return "" if last < first else "the loss does not fall"


def comes_back(kind: str, e: Encoder, folder: Path, modality: str, saved: Path) -> str:
    """``PeftModel.from_pretrained`` on the plain backbone gives the same vectors."""
    torch.manual_seed(77)
    plain = encoder(folder, modality)
    wrapped = PeftModel.from_pretrained(plain.model, saved)
    if kind in PROMPTS:
        plain.model = Prompted(wrapped, OPTIONS[kind]["num_virtual_tokens"], kind in EMBEDDED)
    with torch.no_grad():
        vectors = e(inputs(modality))
        same = torch.allclose(plain.eval()(inputs(modality)), vectors, atol=1e-6)
        if torch.allclose(encoder(folder, modality)(inputs(modality)), vectors, atol=1e-5):
            return "too little is trained to tell whether it comes back"
    return "" if same else "what peft saves does not give the same vectors"


def kinds() -> list[str]:
    """The tuners of the installed peft."""
    return sorted(kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING)


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as base:
        folders = save_folders(Path(base))
        tried = {
            kind: {"options": OPTIONS.get(kind, {})} | {m: trial(kind, m, folders[m]) for m in MODALITIES}
            for kind in kinds()
        }
    TABLE.write_text(json.dumps({"peft": version("peft"), "tuners": tried}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
