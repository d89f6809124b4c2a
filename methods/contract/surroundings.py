"""Conformance checks of side effects: on imports, the other encoder, torch's settings and other models."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.base import Encoder, EncoderMethod
from methods.contract.rig import BOTH, STEPS, CheckFailed, GlobalState, NotApplicable, Rig, take_steps


def imports_quietly(rig: Rig) -> None:
    """Importing the method's file changes no global setting."""
    if rig.import_changes:
        raise CheckFailed(
            f"importing its file changes {', '.join(rig.import_changes)}",
            "do not change torch's settings or random generators at the top level of the file",
        )


def works_alone(rig: Rig) -> None:
    """The method works with text only and with images only."""
    for modality in BOTH:
        try:
            case = rig.case((modality,))
            loss = take_steps(case, 1)[0]
        except Exception as error:
            raise CheckFailed(
                f"with {modality} only: {type(error).__name__}: {error}",
                "build for the modalities that build, network and adapt are given; there may be only one",
            ) from error
        if set(case.items.adapted) != {modality} or not math.isfinite(loss):
            raise CheckFailed(
                f"with {modality} only it adapts {sorted(case.items.adapted)} and its loss is {loss}",
                "report exactly the modalities that were given",
            )


def leaves_the_other_alone(rig: Rig) -> None:
    """Adapting one encoder changes nothing in the other encoder."""
    if not isinstance(rig.method, EncoderMethod):
        raise NotApplicable("the method gets hidden states and no encoder")
    for adapted, other in (BOTH, BOTH[::-1]):
        encoders = {m: rig.encoder(m).requires_grad_(False) for m in (other, adapted)}
        rig.method.adapt(encoders[other])
        before = _describe_encoder(encoders[other])
        rig.method.adapt(encoders[adapted])
        after = _describe_encoder(encoders[other])
        changed = [name for name in before.keys() | after.keys() if not _same(before.get(name), after.get(name))]
        if changed:
            raise CheckFailed(
                f"adapting the {adapted} encoder changes the {other} encoder: {min(changed)}",
                "change only the encoder that adapt is given; keep no reference to an earlier encoder",
            )


def _describe_encoder(encoder: Encoder) -> dict[str, Any]:
    """Modules, values, flags, hooks and configuration of an encoder, by name."""
    state: dict[str, Any] = {f"module {n or 'encoder'}": (type(m), id(m)) for n, m in encoder.named_modules()}
    state |= {f"parameter {n}": p.detach().clone() for n, p in encoder.named_parameters()}
    state |= {f"requires_grad of {n}": p.requires_grad for n, p in encoder.named_parameters()}
    state |= {f"buffer {n}": b.clone() for n, b in encoder.named_buffers()}
    config: Any = encoder.model.config
    return state | {"number of hooks": _hooks(encoder), "attention function": config._attn_implementation}


def _same(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else bool(a == b)


def leaves_nothing_behind(rig: Rig) -> None:
    """Training adds no hook per step and changes no setting of torch and no class that other models use."""
    case = rig.case()
    take_steps(case, 1)
    hooks = _hooks(case.model)
    take_steps(case)
    if _hooks(case.model) != hooks:
        raise CheckFailed(
            f"{_hooks(case.model) - hooks} more hooks after {STEPS} further steps",
            "register a hook once, in adapt, or remove its handle in a finally block",
        )
    after = global_state(rig)
    if changed := differences(rig.before.settings, after.settings):
        raise CheckFailed(
            f"building and training changes {', '.join(changed)}",
            "restore settings, best with a context manager around the code that needs them",
        )
    if touched := [m for m in BOTH if not torch.equal(rig.before.outputs[m], after.outputs[m])]:
        raise CheckFailed(
            f"the output of another {touched[0]} encoder, which the method was never given, has changed",
            "change modules of the encoder that adapt is given, not classes or functions of a library",
        )


def _hooks(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_modules = sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)
    of_tensors = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return of_modules + sum(len(getattr(p, kind) or ()) for p in model.parameters() for kind in of_tensors)


def global_state(rig: Rig) -> GlobalState:
    """Current state outside the method."""
    inputs = rig.inputs()
    with torch.no_grad():
        outputs = {modality: rig.encoder(modality).eval()(inputs) for modality in BOTH}
    return GlobalState(settings(), outputs)


def settings() -> dict[str, Any]:
    """Global settings of torch that affect other models, by name."""
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
    """States of the global random generators, by name."""
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "random's state": random.getstate(),
        "numpy's random state": np.random.get_state()[1].tobytes(),  # type: ignore[index]
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Names of the values that have changed."""
    return [name for name, value in before.items() if value != after[name]]
