"""Conformance checks of building, training, declared parameters, determinism and saving."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from torch import nn

from methods.base import StepHook
from methods.contract.rig import BOTH, STEPS, Case, CheckFailed, Rig, declared_of, take_steps

LOSS_STEPS = (5, 15, 30)


def _names(model: nn.Module) -> dict[int, str]:
    return {id(p): name.removeprefix("item_encoder.") for name, p in model.named_parameters()}


def _describe(case: Case, parameters: Sequence[nn.Parameter]) -> str:
    """Number of parameters and the name of the first, for messages."""
    name = _names(case.model).get(id(parameters[0]), "a parameter that is not in the model")
    return f"{len(parameters)} parameter{'s' if len(parameters) > 1 else ''}, e.g. {name}"


def builds(rig: Rig) -> None:
    """The method gives one vector of width d per item and adapts every encoder."""
    case = rig.case()
    for modality in BOTH:
        if case.items.adapted.get(modality, 0) < 1:
            raise CheckFailed(
                f"no module of the {modality} encoder was adapted",
                "return the number of changed modules in Adaptation.modules; if it is 0, the modules have other names "
                "in this encoder: bench.models.structure finds them in both",
            )
    vectors = case.vectors()
    if vectors.ndim != 2 or vectors.shape[1] != rig.width:
        raise CheckFailed(
            f"item vectors are {tuple(vectors.shape)}", f"return a vector of width d = {rig.width} per item"
        )
    if not vectors.isfinite().all():
        raise CheckFailed(
            "item vectors are not finite before the first step", "check how new parameters are initialised"
        )
    if (vectors - vectors[0]).abs().max() == 0:
        raise CheckFailed("all items get the same vector", "compute the vectors from the inputs")


def trains(rig: Rig) -> None:
    """Parameters with a gradient change, and the loss stays finite."""
    case = rig.case()
    declared = declared_of(case)
    before = [p.detach().clone() for p in declared]
    moved: set[int] = set()
    for _ in range(STEPS):
        loss = case.forward()
        if not math.isfinite(loss.item()):
            raise CheckFailed(f"the loss is {loss.item()}", "lower lr, or initialise new modules near zero")
        case.backward(loss)
        moved |= {id(p) for p in declared if p.grad is not None and p.grad.any()}
        case.update()
    still = [p for p, then in zip(declared, before, strict=True) if id(p) in moved and torch.equal(p, then)]
    if still:
        raise CheckFailed(
            f"after {STEPS} steps {_describe(case, still)} did not change although they get a gradient",
            "raise the learning rate of their group; an update below a ten-millionth of a value is lost in 32 bit",
        )


def loss_falls(rig: Rig) -> None:
    """Training on one batch lowers the loss on it."""
    case = rig.case()
    first = last = case.loss()
    done = 0
    for goal in LOSS_STEPS:
        take_steps(case, goal - done)
        done, last = goal, case.loss()
        if last < first:
            return
    raise CheckFailed(
        f"the loss on one batch is {first:.4f} before and {last:.4f} after {done} steps",
        "try a tenth of the learning rates; then check the sign with which trained parameters enter the output",
    )


def frozen_stays(rig: Rig) -> None:
    """Undeclared parameters keep their values, and so do buffers, which are not restored to the best epoch."""
    case = rig.case()
    declared = {id(p) for p in declared_of(case)}
    parameters = {n: p for n, p in case.items.named_parameters() if id(p) not in declared}
    followed = {id(b) for module in case.items.modules() if isinstance(module, StepHook) for b in module.buffers()}
    buffers = {n: b for n, b in case.items.named_buffers() if id(b) not in followed}
    kept = {n: t.detach().clone() for n, t in (parameters | buffers).items()}
    take_steps(case)
    case.vectors()
    now = parameters | dict(case.items.named_buffers())
    changed = [name for name, then in kept.items() if not torch.equal(now[name], then)]
    if changed:
        kind = "frozen parameter" if changed[0] in parameters else "buffer"
        raise CheckFailed(
            f"{len(changed)} tensors that no group declares changed in {STEPS} steps, e.g. the {kind} {changed[0]}",
            "declare it if it should train, otherwise do not write to it; running statistics are not restored to the "
            "chosen epoch, so use a normalisation without them",
        )


def counts_right(rig: Rig) -> None:
    """The declared parameters are exactly those that require a gradient, get one and are optimised, each once."""
    case = rig.case()
    declared = declared_of(case)
    ids = {id(p) for p in declared}
    if len(ids) < len(declared):
        twice = list({id(p): p for i, p in enumerate(declared) if any(p is q for q in declared[:i])}.values())
        raise CheckFailed(f"declared twice: {_describe(case, twice)}", "put each parameter into one group only")
    if empty := [p for p in declared if p.numel() == 0]:
        raise CheckFailed(f"empty: {_describe(case, empty)}", "give the option that sets its size the type Count")
    if outside := [p for p in declared if id(p) not in _names(case.model)]:
        raise CheckFailed(
            f"declared but not in the model: {_describe(case, outside)}",
            "make it an attribute of a module in the encoder",
        )
    if alive := [p for p in case.model.parameters() if p.requires_grad and id(p) not in ids]:
        raise CheckFailed(
            f"requires a gradient but is in no group: {_describe(case, alive)}",
            "return it in Adaptation.parameters (or a Group of split), or call requires_grad_(False)",
        )
    if ids != {id(p) for p in case.optimised}:
        raise CheckFailed(
            "the optimizer has other parameters than the groups declare", "build the groups once, in build"
        )
    got = set()
    for _ in range(STEPS):  # a factor next to one that starts at zero gets its first gradient in the second step
        case.backward(case.forward())
        got |= {id(p) for p in declared if p.grad is not None and p.grad.any()}
        case.update()
    if idle := [p for p in declared if id(p) not in got]:
        raise CheckFailed(
            f"declared but without a gradient in {STEPS} steps: {_describe(case, idle)}",
            "it is unused, or cut off by detach, no_grad or a factor of zero: use it, or leave it out of the groups",
        )


def is_deterministic(rig: Rig) -> None:
    """The same seed gives the same losses and vectors, bit for bit."""
    runs = []
    for _ in range(2):
        case = rig.case()
        runs.append((take_steps(case), case.vectors()))
    (losses, vectors), (again, vectors_again) = runs
    if losses != again or not torch.equal(vectors, vectors_again):
        raise CheckFailed(
            f"two runs from one seed differ: loss {losses[-1]!r} and {again[-1]!r} at step {STEPS}",
            "draw from torch's default generator, which is seeded before every build, not from random, numpy or time",
        )


def can_be_saved(rig: Rig) -> None:
    """The saved state, loaded into a method built from another seed, gives the same vectors."""
    case, other = rig.case(), rig.case(seed=1)
    take_steps(case)
    file = io.BytesIO()
    torch.save(case.items.state_dict(), file)
    file.seek(0)
    other.items.load_state_dict(torch.load(file, weights_only=True))
    if not torch.equal(case.vectors(), other.vectors()):
        raise CheckFailed(
            "the saved state, loaded into a new instance, gives other vectors",
            "keep all state that the vectors depend on in parameters or buffers, not in plain attributes",
        )
