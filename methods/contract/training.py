"""Does it build, train, count and come back."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from torch import nn

from methods.base import StepHook
from methods.contract.rig import BOTH, STEPS, Broken, Case, Rig, declared_of, take_steps

LOSS_STEPS = (5, 15, 30)


def _names(model: nn.Module) -> dict[int, str]:
    return {id(p): name.removeprefix("item_encoder.") for name, p in model.named_parameters()}


def _say(case: Case, parameters: Sequence[nn.Parameter]) -> str:
    name = _names(case.model).get(id(parameters[0]), "one that is not in the model")
    return f"{len(parameters)} parameter{'s' if len(parameters) > 1 else ''}, e.g. {name}"


def builds(rig: Rig) -> None:
    """One vector of width d per item, every encoder adapted."""
    case = rig.case()
    for modality in BOTH:
        if case.items.adapted.get(modality, 0) < 1:
            raise Broken(
                f"no module of the {modality} encoder was adapted",
                "return the number of modules that you changed in Adaptation.modules; if it is 0, what you look for "
                "has another name in this encoder: bench.models.structure finds it in both",
            )
    vectors = case.vectors()
    if vectors.ndim != 2 or vectors.shape[1] != rig.width:
        raise Broken(f"item vectors are {tuple(vectors.shape)}", f"give one vector of width d = {rig.width} per item")
    if not vectors.isfinite().all():
        raise Broken("item vectors are not finite before the first step", "look at how new parameters start")
    if (vectors - vectors[0]).abs().max() == 0:
        raise Broken("all items get the same vector", "let the vectors depend on the inputs")


def trains(rig: Rig) -> None:
    """What gets a gradient moves, and the loss stays finite."""
    case = rig.case()
    declared = declared_of(case)
    before = [p.detach().clone() for p in declared]
    moved: set[int] = set()
    for _ in range(STEPS):
        loss = case.forward()
        if not math.isfinite(loss.item()):
            raise Broken(f"the loss is {loss.item()}", "lower lr, or let new modules start near zero")
        case.backward(loss)
        moved |= {id(p) for p in declared if p.grad is not None and p.grad.any()}
        case.update()
    still = [p for p, then in zip(declared, before, strict=True) if id(p) in moved and torch.equal(p, then)]
    if still:
        raise Broken(
            f"after {STEPS} steps {_say(case, still)} did not move although they get a gradient",
            "raise the learning rate of their group; below a ten-millionth of a value nothing moves in 32 bit",
        )


def loss_falls(rig: Rig) -> None:
    """Trained on one batch, the loss on it goes down."""
    case = rig.case()
    first = last = case.loss()
    done = 0
    for goal in LOSS_STEPS:
        take_steps(case, goal - done)
        done, last = goal, case.loss()
        if last < first:
            return
    raise Broken(
        f"the loss on one batch is {first:.4f} before and {last:.4f} after {done} steps",
        "try a tenth of the learning rates; then look whether the output depends on what trains with the right sign",
    )


def frozen_stays(rig: Rig) -> None:
    """What is not declared keeps its values: parameters, and buffers, of which no best epoch is kept."""
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
        raise Broken(
            f"{len(changed)} that no group declares changed in {STEPS} steps, e.g. the {kind} {changed[0]}",
            "declare it if it should train, write nothing to it if not; running statistics would not be set back to "
            "the chosen epoch: normalise without them",
        )


def counts_right(rig: Rig) -> None:
    """Declared = requires a gradient = gets one = is optimised, each once and of at least one value."""
    case = rig.case()
    declared = declared_of(case)
    ids = {id(p) for p in declared}
    if len(ids) < len(declared):
        twice = list({id(p): p for i, p in enumerate(declared) if any(p is q for q in declared[:i])}.values())
        raise Broken(f"declared twice: {_say(case, twice)}", "put each parameter into one group, once")
    if empty := [p for p in declared if p.numel() == 0]:
        raise Broken(f"without a value: {_say(case, empty)}", "give the option that sizes it the type Count")
    if outside := [p for p in declared if id(p) not in _names(case.model)]:
        raise Broken(
            f"declared and not in the model: {_say(case, outside)}", "make it an attribute of a module of the encoder"
        )
    if alive := [p for p in case.model.parameters() if p.requires_grad and id(p) not in ids]:
        raise Broken(
            f"requires a gradient and is in no group: {_say(case, alive)}",
            "return it in Adaptation.parameters (or a Group of split), or call requires_grad_(False)",
        )
    if ids != {id(p) for p in case.optimised}:
        raise Broken("the optimizer steps other parameters than the groups declare", "build the groups once, in build")
    got = set()
    for _ in range(STEPS):  # the factor behind one that starts at zero gets its first gradient in the second step
        case.backward(case.forward())
        got |= {id(p) for p in declared if p.grad is not None and p.grad.any()}
        case.update()
    if idle := [p for p in declared if id(p) not in got]:
        raise Broken(
            f"declared and without a gradient in {STEPS} steps: {_say(case, idle)}",
            "it is not used, or cut off by detach, no_grad or a zero: leave it out of the groups, or use it",
        )


def is_deterministic(rig: Rig) -> None:
    """The same seed gives the same numbers, bit for bit."""
    runs = []
    for _ in range(2):
        case = rig.case()
        runs.append((take_steps(case), case.vectors()))
    (losses, vectors), (again, vectors_again) = runs
    if losses != again or not torch.equal(vectors, vectors_again):
        raise Broken(
            f"two runs from one seed part: loss {losses[-1]!r} and {again[-1]!r} at step {STEPS}",
            "draw with torch's default generator, which is seeded before every build; no random, numpy or time",
        )


def can_be_saved(rig: Rig) -> None:
    """Its state, loaded into one that started from another seed, gives the same vectors."""
    case, other = rig.case(), rig.case(seed=1)
    take_steps(case)
    file = io.BytesIO()
    torch.save(case.items.state_dict(), file)
    file.seek(0)
    other.items.load_state_dict(torch.load(file, weights_only=True))
    if not torch.equal(case.vectors(), other.vectors()):
        raise Broken(
            "its saved state, loaded into a fresh one, gives other vectors",
            "keep what the vectors depend on in nn.Parameter or register_buffer, not in plain attributes",
        )
