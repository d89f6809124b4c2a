"""Save what a tuner of peft trained, in peft's format, so that it fits the plain encoder.

PiSSA and OLoRA start from a decomposition of a weight, ``W = R + s B₀A₀``, and leave the residual R in the encoder.
peft computes R again when it loads such an adapter. Where the decomposition is drawn (``pissa_niter_N``), it differs
from the one that was trained, by more than training changes a weight. Such an adapter is therefore saved as a plain
LoRA of twice the rank, for the difference ``s (BA − B₀A₀)`` from W.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ADAPTER = "default"
RESIDUAL = ("pissa", "olora")


def save_tuner(wrapped: Any, folder: Path, **more: Any) -> None:
    """Save a model of peft in peft's format: ``adapter_model.safetensors`` and ``adapter_config.json``."""
    wrapped.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False, **more)
    (folder / "README.md").unlink(missing_ok=True)  # an empty model card


class Residual:
    """Saver of a LoRA whose encoder holds residuals; must be made before training.

    Args:
        wrapped: peft's model with the LoRA at its start.
    """

    def __init__(self, wrapped: Any):
        self._wrapped = wrapped
        self._start = {name: p.detach().clone() for name, p in _factors(wrapped).items()}

    @staticmethod
    def fits(wrapped: Any) -> bool:
        """True if the initialisation has left residuals in the encoder."""
        config = wrapped.peft_config[ADAPTER]
        start = getattr(config, "init_lora_weights", None)
        return config.peft_type == "LORA" and isinstance(start, str) and start.lower().startswith(RESIDUAL)

    def save(self, folder: Path) -> None:
        """Write a LoRA of twice the rank that gives the same vectors on the plain encoder."""
        configs = self._wrapped.peft_config
        trained, tensors = configs[ADAPTER], self._wrapped.state_dict()
        for name, factor in _factors(self._wrapped).items():
            start = self._start[name].to(factor.device)
            a = ".lora_A." in name or ".lora_embedding_A." in name
            tensors[name] = torch.cat([factor.detach(), start if a else -start], dim=0 if a else 1)
        configs[ADAPTER] = _doubled(trained)
        try:
            save_tuner(self._wrapped, folder, state_dict=tensors)
        finally:
            configs[ADAPTER] = trained


def _factors(wrapped: Any) -> dict[str, Tensor]:
    """The factors A (r, in) and B (out, r) of every adapted map or embedding, by name in the model of peft."""
    ends = tuple(
        end for factor in "AB" for end in (f".lora_{factor}.{ADAPTER}.weight", f".lora_embedding_{factor}.{ADAPTER}")
    )
    return {name: p for name, p in wrapped.named_parameters() if name.endswith(ends)}


def _doubled(trained: Any) -> Any:
    """Configuration of a plain LoRA with twice the rank and the same scale, alpha / r or alpha / sqrt(r)."""
    config = copy.deepcopy(trained)
    scale = 2**0.5 if config.use_rslora else 2
    config.init_lora_weights = True
    config.r, config.lora_alpha = 2 * config.r, scale * config.lora_alpha
    config.rank_pattern = {name: 2 * rank for name, rank in config.rank_pattern.items()}
    config.alpha_pattern = {name: scale * alpha for name, alpha in config.alpha_pattern.items()}
    return config
