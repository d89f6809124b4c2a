"""Checks of a loaded encoder on a few items, before anything is timed: its states repeat, and "auto" pooling fits."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models import families
from bench.models.encoders import Encoder, Inputs
from bench.utils.errors import UserError

# Relative to the largest value: kernels of a device may sum in another order; another mask or hash differs by far more.
REPEATED = 1e-3
UNTOUCHED = 1e-6


@torch.no_grad()
def check_encoder(encoder: Encoder, inputs: Inputs) -> None:
    """Run an encoder twice in eval mode on the same items, and see whether its attention is what the pooling assumes.

    Args:
        inputs: of a few items, on the encoder's device.

    Raises:
        UserError: the states of the two passes differ, or "auto" took causal attention for the other kind.
    """
    training = encoder.training
    encoder.eval()
    try:
        first = encoder.output(inputs)
        again = encoder.output(inputs)
        if first.shape != again.shape or _difference(first, again) > REPEATED:
            raise UserError(
                f"--{encoder.modality}-model: {type(encoder.model).__name__} is not deterministic in eval mode: the "
                "same items gave other states in a second pass, as from random masks or hashes; choose another encoder"
            )
        if encoder.modality == "text" and encoder.choice.chosen:
            _check_attention(encoder, inputs, first)
    finally:
        encoder.train(training)


def _check_attention(encoder: Encoder, inputs: Inputs, states: Tensor) -> None:
    """Change the second token: only causal attention leaves the state of the first one alone."""
    ids = inputs["input_ids"]
    rows = inputs["attention_mask"].sum(1) > 1
    if ids.shape[1] < 2 or not bool(rows.any()):
        return
    others = ids.clone()
    others[:, 1] = torch.where(ids[:, 1] == ids[0, 0], ids[:, 1] - 1, ids[0, 0]).clamp(min=0)
    changed = encoder.output({**inputs, "input_ids": others})
    causal = _difference(states[rows, 0], changed[rows, 0]) <= UNTOUCHED
    if causal != families.is_causal(encoder.config):
        kind = encoder.config.model_type
        found, pooling = ("causal", "last-token") if causal else ("not causal", "mean or cls")
        raise UserError(
            f'--text-model: the attention of {kind} is {found} here, so that the pooling of "auto" '
            f"({encoder.pooling}: {encoder.choice.why}) may not fit; set text_pooling under [[backbones]] ({pooling})"
        )


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    largest = max(float(one.abs().max()), 1e-30)
    return float((one.float() - other.float()).abs().max()) / largest
