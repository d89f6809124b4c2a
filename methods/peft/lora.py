"""LoRA on the pretrained query and value projections, through peft (Hu et al., ICLR 2022).

If one map gives query, key and value together (GPT-2, ModernBERT), the update is on that map, so keys are adapted too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from bench.models.structure import linears
from methods.base import Adaptation, Count, Encoder, EncoderMethod
from methods.peft.saving import save_tuner


@dataclass(frozen=True)
class LoRA(EncoderMethod):
    """LoRA: low-rank updates of query and value.

    Attributes:
        rank: rank r of an update.
        alpha: scale; updates are multiplied by alpha / r.
        dropout: dropout on the input of an update.
        lr: learning rate of the updates.
    """

    rank: Count = 8
    alpha: float = 16.0
    dropout: float = 0.0
    lr: float = 2e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Add an update to the query and value maps, named in full because short names fit only one model family."""
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
        adapted = [module for module in encoder.model.modules() if isinstance(module, LoraLayer)]
        parameters = [p for name, p in encoder.model.named_parameters() if "lora_" in name]
        return Adaptation(parameters, self.lr, len(adapted), partial(save_tuner, wrapped))
