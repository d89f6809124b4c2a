"""LoRA on the pretrained query and value projections, through peft (Hu et al., ICLR 2022).

Where one map gives query, key and value together (GPT-2, ModernBERT), the update is on that map, so keys are adapted as
well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bench.models.structure import linears
from methods.base import Adaptation, Count, Encoder, EncoderMethod
from methods.peft.tuner import save_tuner


@dataclass(frozen=True)
class LoRA(EncoderMethod):
    """Low-rank updates.

    Attributes:
        rank: r.
        alpha: the update is scaled by alpha / r.
        dropout: on the update's input.
    """

    rank: Count = 8
    alpha: float = 16.0
    dropout: float = 0.0
    lr: float = 2e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Targets are named in full per encoder: short names that fit one family would miss the other."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer
        from transformers.pytorch_utils import Conv1D

        targets = linears(encoder.model, "query") | linears(encoder.model, "value")
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(targets),
            fan_in_fan_out=any(isinstance(linear, Conv1D) for linear in targets.values()),
        )
        wrapped = get_peft_model(encoder.model, config)
        hits = [module for module in encoder.model.modules() if isinstance(module, LoraLayer)]
        parameters = [p for name, p in encoder.model.named_parameters() if "lora_" in name]
        return Adaptation(parameters, self.lr, len(hits), partial(save_tuner, wrapped))
