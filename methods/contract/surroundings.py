"""Does it leave alone what is not its own."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Encoder, EncoderMethod
from methods.contract.rig import BOTH, STEPS, Broken, NotApplicable, Rig, World, take_steps


def imports_quietly(rig: Rig) -> None:
    """What is imported changes nothing but itself."""
    if rig.import_changes:
        raise Broken(
            f"importing its file changes {', '.join(rig.import_changes)}",
            "leave torch's settings and the random generators alone at the top of the file",
        )


def works_alone(rig: Rig) -> None:
    """With text alone and with images alone."""
    for modality in BOTH:
        try:
            case = rig.case((modality,))
            loss = take_steps(case, 1)[0]
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
    take_steps(case, 1)
    hooks = _hooks(case.model)
    take_steps(case)
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
