"""What must hold before a cell's clock starts. A gate that fails names itself; the cell fails with it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from bench.models.quantisation import parts
from bench.models.recommender import Recommender, TrainBatch

LOSS_STEPS = (5, 15, 30)


class GateError(Exception):
    """A named gate did not hold."""

    def __init__(self, gate: str, why: str):
        super().__init__(f"gate {gate}: {why}")


def _fingerprint(parameters: list[nn.Parameter]) -> list[tuple[float, float]]:
    """Sum and sum of squares in 64 bit: tells whether values moved without keeping a second copy of them."""
    with torch.no_grad():
        return [
            (sum(t.double().sum().item() for t in parts(p)), sum(t.double().square().sum().item() for t in parts(p)))
            for p in parameters
        ]


def check_gates(
    model: Recommender,
    step: Callable[[TrainBatch], Tensor],
    batch: TrainBatch,
    declared: list[nn.Parameter],
    adapted: dict[str, int],
) -> dict[str, object]:
    """Trains some steps on one batch and looks at what moved. The caller restores the model afterwards.

    Args:
        step: one optimizer step; returns the loss before it.
        batch: a small one.
        declared: the parameters that the method says it trains, the user encoder's included.
        adapted: modality -> adapted modules.

    Raises:
        GateError: adapted_modules, item_vectors_differ, loss_finite, frozen_untouched, frozen_without_gradient,
            trained_changes, loss_decreases.
    """
    for modality, hits in adapted.items():
        if hits < 1:
            raise GateError("adapted_modules", f"no module of the {modality} encoder was adapted")
    _item_vectors_differ(model, batch)
    trained = {id(p) for p in declared}
    frozen = [p for p in model.parameters() if id(p) not in trained]
    before_frozen, before_trained = _fingerprint(frozen), _fingerprint(declared)
    first = _loss(model, batch)
    last, done = first, 0
    for goal in LOSS_STEPS:
        for _ in range(goal - done):
            if not torch.isfinite(step(batch)):
                raise GateError("loss_finite", f"the loss is not finite after {done} steps on one batch")
        done = goal
        last = _loss(model, batch)
        if last < first:
            break
    if any(p.grad is not None for p in frozen):
        raise GateError("frozen_without_gradient", "a frozen parameter got a gradient")
    if _fingerprint(frozen) != before_frozen:
        raise GateError("frozen_untouched", "a frozen parameter changed")
    after = _fingerprint(declared)
    still = [p for p, now, then in zip(declared, after, before_trained, strict=True) if now == then]
    if still:
        names = {id(p): name for name, p in model.named_parameters()}
        example = names.get(id(still[0]), "a parameter that is not in the model")
        raise GateError("trained_changes", f"{len(still)} of {len(declared)} did not change, e.g. {example}")
    if not last < first:
        raise GateError("loss_decreases", f"{first:.4f} before, {last:.4f} after {done} steps on one batch")
    return {"loss_decreases": {"before": first, "after": last, "steps": done}, "adapted_modules": adapted}


@torch.no_grad()
def _item_vectors_differ(model: Recommender, batch: TrainBatch) -> None:
    model.eval()
    vectors = model.item_encoder(batch.inputs).float()
    model.train()
    if not torch.isfinite(vectors).all():
        raise GateError("loss_finite", "item vectors are not finite")
    if len(vectors) > 1 and bool((vectors - vectors[0]).abs().max() == 0):
        raise GateError("item_vectors_differ", "all item vectors of a batch are alike")


@torch.no_grad()
def _loss(model: Recommender, batch: TrainBatch) -> float:
    """In eval mode, so that dropout does not decide whether the loss went down."""
    model.eval()
    loss = model(batch).item()
    model.train()
    return float(loss)
