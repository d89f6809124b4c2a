"""BitFit: every bias of the encoders trains (Ben Zaken et al., ACL 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from bench.utils.errors import UserError
from methods.base import Adaptation, Encoder, EncoderMethod


@dataclass(frozen=True)
class BitFit(EncoderMethod):
    """BitFit: trains the biases of all linear maps, convolutions and LayerNorms."""

    lr: float = 4e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Select all parameters named ``bias``.

        Raises:
            UserError: the encoder has no biases (ModernBERT, Llama).
        """
        biases = [p for name, p in encoder.model.named_parameters() if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise UserError(f"bitfit: {type(encoder.model).__name__} has no biases")
        return Adaptation(biases, self.lr, len(biases))
