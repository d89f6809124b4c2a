"""Full fine-tuning: every weight of both encoders trains."""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import Adaptation, Encoder, EncoderMethod


@dataclass(frozen=True)
class FullFineTuning(EncoderMethod):
    """Full fine-tuning, with one learning rate per encoder as in the IISAN paper (section 4.2)."""

    lr_text: float = 5e-5
    lr_image: float = 1e-4

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Select all parameters of the encoder."""
        parameters = list(encoder.model.parameters())
        lr = self.lr_text if encoder.modality == "text" else self.lr_image
        return Adaptation(parameters, lr, len(parameters))
