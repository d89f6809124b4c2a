"""What every method owes the table: checks that a stranger's method passes like ours.

The checks are here, and what they are run on is not: a :class:`Rig` builds, steps and measures as the harness does
(``bench.check`` has it), so that this room stays free of the harness's loop, and what passes here is what a cell runs.

Each check either returns or raises :class:`Broken`, which says what was found and what to do about it, or
:class:`NotApplicable`.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Encoder, EncoderMethod, Group, HiddenMethod, ItemEncoder, Method

Status = Literal["passed", "failed", "skipped"]
BOTH = ("text", "image")
STEPS = 3
LOSS_STEPS = (5, 15, 30)
RTOL, ATOL = 1e-4, 1e-5
"""Live and cached states of one batch are the same numbers; what comes after may sum in another order."""


class Broken(Exception):
    """A check that did not hold.

    Attributes:
        finding: what was seen.
        advice: what to do.
    """

    def __init__(self, finding: str, advice: str):
        super().__init__(finding)
        self.finding = finding
        self.advice = advice


class NotApplicable(Exception):
    """The check asks nothing of a method of this kind; says why."""


class Case(Protocol):
    """A model built by the harness, its trainer, and one small batch that it is always fed with.

    Attributes:
        model: item encoder and user encoder.
        items: the method's item encoder.
        groups: the method's, and the user encoder's.
        encoders: the backbones that run in every step; none when their states come from the cache.
        optimised: what the optimizer steps.
    """

    model: nn.Module
    items: ItemEncoder
    groups: tuple[Group, ...]
    encoders: Mapping[str, Encoder]
    optimised: Sequence[nn.Parameter]

    def vectors(self) -> Tensor:
        """Item vectors of the batch in eval mode, (n, d)."""

    def loss(self) -> float:
        """Of the batch, in eval mode."""

    def forward(self) -> Tensor:
        """The loss, in train mode."""

    def backward(self, loss: Tensor) -> None:
        """Gradients."""

    def update(self) -> None:
        """Steps and frees the gradients."""

    def peak(self, steps: int) -> int:
        """Live tensor bytes at the peak of so many further steps."""


@dataclass(frozen=True)
class World:
    """What is not the method's own.

    Attributes:
        settings: of torch.
        outputs: modality -> what an encoder that no method was given computes.
    """

    settings: Mapping[str, Any]
    outputs: Mapping[str, Tensor]


class Rig(Protocol):
    """What the checks are run on.

    Attributes:
        method: with its default options.
        width: d.
        import_changes: what the import of the method's file changed that is not its own.
        before: how the world was before the method was first built.
    """

    method: Method
    width: int
    import_changes: Sequence[str]
    before: World

    def case(self, modalities: Sequence[str] = BOTH, seed: int = 0, cached: bool | None = None) -> Case:
        """Builds the method; everything that it draws is drawn from ``seed``, the backbones and the batch are not."""

    def encoder(self, modality: str) -> Encoder:
        """A backbone as a method gets it, always with the same weights."""

    def inputs(self) -> Mapping[str, Tensor]:
        """Item inputs of both modalities."""

    def planned(self) -> Mapping[str, int]:
        """Costs of a step on fake tensors, by name."""

    def measured(self) -> Mapping[str, int]:
        """The same on real ones."""


def _steps(case: Case, n: int = STEPS) -> list[float]:
    losses = []
    for _ in range(n):
        loss = case.forward()
        losses.append(loss.item())
        case.backward(loss)
        case.update()
    return losses


def _names(model: nn.Module) -> dict[int, str]:
    return {id(p): name.removeprefix("item_encoder.") for name, p in model.named_parameters()}


def _declared(case: Case) -> list[nn.Parameter]:
    return [p for group in case.groups for p in group.parameters]


def _say(case: Case, parameters: Sequence[nn.Parameter]) -> str:
    name = _names(case.model).get(id(parameters[0]), "one that is not in the model")
    return f"{len(parameters)} parameter{'s' if len(parameters) > 1 else ''}, e.g. {name}"


def imports_quietly(rig: Rig) -> None:
    """What is imported changes nothing but itself."""
    if rig.import_changes:
        raise Broken(
            f"importing its file changes {', '.join(rig.import_changes)}",
            "leave torch's settings and the random generators alone at the top of the file",
        )


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
    declared = _declared(case)
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
        _steps(case, goal - done)
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
    declared = {id(p) for p in _declared(case)}
    parameters = {n: p for n, p in case.items.named_parameters() if id(p) not in declared}
    kept = {n: t.detach().clone() for n, t in [*parameters.items(), *case.items.named_buffers()]}
    _steps(case)
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
    declared = _declared(case)
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
        runs.append((_steps(case), case.vectors()))
    (losses, vectors), (again, vectors_again) = runs
    if losses != again or not torch.equal(vectors, vectors_again):
        raise Broken(
            f"two runs from one seed part: loss {losses[-1]!r} and {again[-1]!r} at step {STEPS}",
            "draw with torch's default generator, which is seeded before every build; no random, numpy or time",
        )


def can_be_saved(rig: Rig) -> None:
    """Its state, loaded into one that started from another seed, gives the same vectors."""
    case, other = rig.case(), rig.case(seed=1)
    _steps(case)
    file = io.BytesIO()
    torch.save(case.items.state_dict(), file)
    file.seek(0)
    other.items.load_state_dict(torch.load(file, weights_only=True))
    if not torch.equal(case.vectors(), other.vectors()):
        raise Broken(
            "its saved state, loaded into a fresh one, gives other vectors",
            "keep what the vectors depend on in nn.Parameter or register_buffer, not in plain attributes",
        )


def works_alone(rig: Rig) -> None:
    """With text alone and with images alone."""
    for modality in BOTH:
        try:
            case = rig.case((modality,))
            loss = _steps(case, 1)[0]
        except Exception as error:
            raise Broken(
                f"with {modality} alone: {type(error).__name__}: {error}",
                "build for the modalities that build, network and adapt are given; there may be one",
            ) from error
        if set(case.items.adapted) != {modality} or not math.isfinite(loss):
            raise Broken(
                f"with {modality} alone it adapts {sorted(case.items.adapted)} and its loss is {loss}",
                "report the modalities that were given, and no others",
            )


def leaves_the_other_alone(rig: Rig) -> None:
    """Adapting one encoder changes nothing in the other one."""
    if not isinstance(rig.method, EncoderMethod):
        raise NotApplicable("it is given hidden states, no encoder")
    for adapted, other in (BOTH, BOTH[::-1]):
        encoders = {m: rig.encoder(m).requires_grad_(False) for m in (other, adapted)}
        rig.method.adapt(encoders[other])
        before = _portrait(encoders[other])
        rig.method.adapt(encoders[adapted])
        after = _portrait(encoders[other])
        changed = [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]
        if changed:
            raise Broken(
                f"adapting the {adapted} encoder changes the {other} encoder: {min(changed)}",
                "change only the encoder that adapt is given; keep nothing of an earlier one",
            )


def _portrait(encoder: Encoder) -> dict[str, Any]:
    """Modules, values, flags, hooks and configuration."""
    portrait: dict[str, Any] = {f"module {n or 'encoder'}": (type(m), id(m)) for n, m in encoder.named_modules()}
    portrait |= {f"parameter {n}": p.detach().clone() for n, p in encoder.named_parameters()}
    portrait |= {f"requires_grad of {n}": p.requires_grad for n, p in encoder.named_parameters()}
    portrait |= {f"buffer {n}": b.clone() for n, b in encoder.named_buffers()}
    config: Any = encoder.model.config
    return portrait | {"number of hooks": _hooks(encoder), "attention function": config._attn_implementation}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def leaves_nothing_behind(rig: Rig) -> None:
    """No hook per step, no setting of torch, no change of classes that other models use."""
    case = rig.case()
    _steps(case, 1)
    hooks = _hooks(case.model)
    _steps(case)
    if _hooks(case.model) != hooks:
        raise Broken(
            f"{_hooks(case.model) - hooks} hooks more after {STEPS} further steps",
            "register a hook once, in adapt, or remove its handle in a finally",
        )
    after = world(rig)
    if changed := differences(rig.before.settings, after.settings):
        raise Broken(
            f"building and training changes {', '.join(changed)}",
            "put settings back, best with a context manager around what needs them",
        )
    if touched := [m for m in BOTH if not torch.equal(rig.before.outputs[m], after.outputs[m])]:
        raise Broken(
            f"another {touched[0]} encoder, which it was never given, computes something else now",
            "change modules of the encoder that adapt is given, no classes and no functions of a library",
        )


def _hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    of_tensors = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return of_modules + sum(len(getattr(p, kind) or ()) for p in model.parameters() for kind in of_tensors)


def world(rig: Rig) -> World:
    """How it is now."""
    inputs = rig.inputs()
    with torch.no_grad():
        outputs = {modality: rig.encoder(modality).eval()(inputs) for modality in BOTH}
    return World(settings(), outputs)


def settings() -> dict[str, Any]:
    """Of torch, as far as another model would notice."""
    shared = torch.nn.modules.module
    return {
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's grad mode": torch.is_grad_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "the number of threads": torch.get_num_threads(),
        "the use of deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "the precision of float32 products": torch.get_float32_matmul_precision(),
        "hooks on all modules": (len(shared._global_forward_hooks), len(shared._global_forward_pre_hooks)),
    }


def generators() -> dict[str, Any]:
    """States of the random generators that a build is not handed afresh."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "random's state": random.getstate(),
        "numpy's random state": np.random.get_state()[1].tobytes(),  # type: ignore[index]
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What is not as it was, by name."""
    return [name for name, value in before.items() if value != after[name]]


def memory_is_steady(rig: Rig) -> None:
    """Many steps take no more than one."""
    case = rig.case()
    _steps(case)
    one, many = case.peak(1), case.peak(STEPS)
    if many != one:
        raise Broken(
            f"a step takes {one} bytes at its peak, {STEPS} steps in a row take {many}",
            "keep no tensor from one step to the next, above all none that still has its graph",
        )


def cached_equals_live(rig: Rig) -> None:
    """States from the cache lead where live ones lead."""
    if not isinstance(rig.method, HiddenMethod):
        raise NotApplicable("it reads raw items, there is nothing to cache")
    runs = []
    for cached in (False, True):
        case = rig.case(cached=cached)
        start = case.vectors()
        runs.append((start, torch.tensor(_steps(case)), case.vectors()))
    for what, live, cached_ in zip(("at the start", "loss", "after training"), *runs, strict=True):
        if not torch.allclose(live, cached_, rtol=RTOL, atol=ATOL):
            raise Broken(
                f"live and cached states part ({what}): by {(live - cached_).abs().max().item():.3g}",
                "let the network depend on the states it is given, in the order of kept, and change none in place",
            )


def can_be_planned(rig: Rig) -> None:
    """A step on fake tensors costs what a real one does, to the byte."""
    try:
        planned = rig.planned()
    except Exception as error:
        raise Broken(
            f"a step on fake tensors fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "no .item(), .tolist() or shape that depends on values; tensors that are no parameters must be buffers",
        ) from error
    measured = rig.measured()
    if parts := [name for name in measured if planned[name] != measured[name]]:
        name = parts[0]
        raise Broken(
            f"{name}: {planned[name]} planned, {measured[name]} measured",
            "let what a step does depend on shapes alone, not on values or on how often it ran",
        )


CHECKS: dict[str, Callable[[Rig], None]] = {
    "import": imports_quietly,
    "builds": builds,
    "trains": trains,
    "loss-falls": loss_falls,
    "frozen-stays": frozen_stays,
    "counts": counts_right,
    "deterministic": is_deterministic,
    "saved": can_be_saved,
    "one-modality": works_alone,
    "other-modality": leaves_the_other_alone,
    "no-leaks": leaves_nothing_behind,
    "memory": memory_is_steady,
    "cached-equals-live": cached_equals_live,
    "plan": can_be_planned,
}
"""By name; what each asks is its docstring."""


@dataclass(frozen=True)
class Outcome:
    """Of one check.

    Attributes:
        status: passed, failed or skipped.
        finding: what was seen, or why it was skipped; "" when passed.
        advice: what to do; "" unless failed.
    """

    check: str
    asks: str
    status: Status
    finding: str = ""
    advice: str = ""


def outcomes(rig: Rig, explain: Callable[[Exception], str]) -> Iterator[Outcome]:
    """Runs the checks one after the other; what does not even build is not checked further.

    Args:
        explain: an error of the method's own code, in one line.
    """
    built = True
    for name, check in CHECKS.items():
        asks = (check.__doc__ or "").strip()
        if not built:
            yield Outcome(name, asks, "skipped", "it does not build")
            continue
        status, finding, advice = _run(check, rig, explain)
        yield Outcome(name, asks, status, finding, advice)
        built = not (name == "builds" and status == "failed")


def _run(check: Callable[[Rig], None], rig: Rig, explain: Callable[[Exception], str]) -> tuple[Status, str, str]:
    try:
        check(rig)
    except NotApplicable as reason:
        return "skipped", str(reason), ""
    except Broken as broken:
        return "failed", broken.finding, broken.advice
    except Exception as error:
        return "failed", explain(error), "mend the error"
    return "passed", "", ""
