"""Sanity checks of a model before its training is timed; a failed check ends the cell with the name of the check."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from bench.models.quantisation import storage_tensors
from bench.models.recommender import Recommender, TrainBatch

LOSS_STEPS = (5, 15, 30)
# Largest difference between states, relative to the largest value, that rounding explains.
ALIKE = 1e-5


class SanityCheckError(Exception):
    """A sanity check failed; the message names the check."""

    def __init__(self, check: str, message: str):
        super().__init__(f"sanity check {check}: {message}")


def _fingerprint(parameters: list[nn.Parameter]) -> list[tuple[float, float]]:
    """Sum and sum of squares of each parameter in 64 bit; they show a change of values without a copy of the values."""
    with torch.no_grad():
        return [
            (sum(t.double().sum().item() for t in tensors), sum(t.double().square().sum().item() for t in tensors))
            for tensors in map(storage_tensors, parameters)
        ]


def check_sanity(
    model: Recommender,
    step: Callable[[TrainBatch], Tensor],
    batch: TrainBatch,
    declared: list[nn.Parameter],
    adapted: dict[str, int],
    tower: Callable[[str], str] = "{} encoder".format,
) -> dict[str, object]:
    """Train some steps on one batch and check which parameters changed; the caller restores the model afterwards.

    Args:
        model: recommender in train mode.
        step: function that runs one optimizer step and returns the loss before it.
        batch: small batch.
        declared: parameters that the method declares as trained, and the parameters of the user encoder.
        adapted: modality -> number of adapted modules.
        tower: modality -> its encoder and pooling in words, for messages.

    Returns:
        ``gates`` entry of the record: losses before and after the steps, and the number of adapted modules.

    Raises:
        SanityCheckError: one of the checks failed: adapted_modules, item_vectors_differ, loss_finite, frozen_untouched,
            frozen_without_gradient, trained_changes, loss_decreases.
    """
    for modality, hits in adapted.items():
        if hits < 1:
            raise SanityCheckError("adapted_modules", f"no module of the {modality} encoder was adapted")
    _item_vectors_differ(model, batch, tower)
    trained = {id(p) for p in declared}
    frozen = [p for p in model.parameters() if id(p) not in trained]
    before_frozen, before_trained = _fingerprint(frozen), _fingerprint(declared)
    first = _loss(model, batch)
    last, done = first, 0
    for goal in LOSS_STEPS:
        for _ in range(goal - done):
            if not torch.isfinite(step(batch)):
                raise SanityCheckError("loss_finite", f"the loss is not finite after {done} steps on one batch")
        done = goal
        last = _loss(model, batch)
        if last < first:
            break
    if any(p.grad is not None for p in frozen):
        raise SanityCheckError("frozen_without_gradient", "a frozen parameter got a gradient")
    if _fingerprint(frozen) != before_frozen:
        raise SanityCheckError("frozen_untouched", "a frozen parameter changed")
    after = _fingerprint(declared)
    unchanged = [p for p, now, then in zip(declared, after, before_trained, strict=True) if now == then]
    if unchanged:
        names = {id(p): name for name, p in model.named_parameters()}
        example = names.get(id(unchanged[0]), "a parameter that is not in the model")
        raise SanityCheckError(
            "trained_changes", f"{len(unchanged)} of {len(declared)} parameters did not change, e.g. {example}"
        )
    if not last < first:
        raise SanityCheckError(
            "loss_decreases", f"the loss is {first:.4f} before and {last:.4f} after {done} steps on one batch"
        )
    return {"loss_decreases": {"before": first, "after": last, "steps": done}, "adapted_modules": adapted}


@torch.no_grad()
def _item_vectors_differ(model: Recommender, batch: TrainBatch, tower: Callable[[str], str]) -> None:
    model.eval()
    states = model.item_encoder.source(batch.inputs)  # type: ignore[operator]
    vectors = model.item_encoder(batch.inputs).float()
    model.train()
    if not torch.isfinite(vectors).all():
        raise SanityCheckError("loss_finite", "item vectors are not finite")
    for modality, state in states.items() if isinstance(states, Mapping) else ():
        if _alike(state) and not _inputs_alike(batch, modality):
            raise SanityCheckError(
                "item_vectors_differ",
                f"the {tower(modality)} gives all items of a batch the same states; try another {modality}_pooling "
                f"under [[backbones]], and see whether the model's files hold what it was trained with",
            )
    if len(vectors) > 1 and bool((vectors - vectors[0]).abs().max() == 0):
        raise SanityCheckError("item_vectors_differ", "all item vectors of a batch are equal")


def _alike(rows: Tensor) -> bool:
    """True if the rows are the same but for rounding."""
    rows = rows.float()
    return len(rows) > 1 and bool((rows - rows[0]).abs().max() <= ALIKE * rows.abs().max())


def _inputs_alike(batch: TrainBatch, modality: str) -> bool:
    """True if all items of a batch have the same text or picture: then their states must be the same."""
    key = {"text": "input_ids", "image": "pixels"}[modality]
    return key in batch.inputs and bool((batch.inputs[key] == batch.inputs[key][:1]).all())


@torch.no_grad()
def _loss(model: Recommender, batch: TrainBatch) -> float:
    """Loss in eval mode, so that dropout does not affect whether it decreases."""
    model.eval()
    loss = model(batch).item()
    model.train()
    return float(loss)
