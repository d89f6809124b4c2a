"""Conformance checks of costs: steady memory, cached states equal to live ones, and predictable steps."""

from __future__ import annotations

import torch

from methods.base import HiddenMethod
from methods.contract.rig import STEPS, CheckFailed, NotApplicable, Rig, take_steps

RTOL, ATOL = 1e-4, 1e-5
"""Tolerances between live and cached runs: the states are equal, but later sums may have another order."""


def memory_is_steady(rig: Rig) -> None:
    """Memory does not grow with the number of steps."""
    case = rig.case()
    take_steps(case)
    one, many = case.peak(1), case.peak(STEPS)
    if many != one:
        raise CheckFailed(
            f"one step takes {one} bytes at its peak, {STEPS} steps in a row take {many}",
            "keep no tensor from one step to the next, above all none with its autograd graph",
        )


def cached_equals_live(rig: Rig) -> None:
    """Training on cached states gives the same vectors and losses as on live ones."""
    if not isinstance(rig.method, HiddenMethod):
        raise NotApplicable("the method reads raw items, so there is nothing to cache")
    runs = []
    for cached in (False, True):
        case = rig.case(cached=cached)
        start = case.vectors()
        runs.append((start, torch.tensor(take_steps(case)), case.vectors()))
    for stage, live, served in zip(("at the start", "loss", "after training"), *runs, strict=True):
        if not torch.allclose(live, served, rtol=RTOL, atol=ATOL):
            raise CheckFailed(
                f"live and cached runs differ ({stage}) by {(live - served).abs().max().item():.3g}",
                "compute only from the given states, in the order of kept, and do not change them in place",
            )


def can_be_planned(rig: Rig) -> None:
    """A step on fake tensors has the same costs as a real step, to the byte."""
    try:
        planned = rig.planned()
    except Exception as error:
        raise CheckFailed(
            f"a step on fake tensors fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}",
            "use no .item(), .tolist() or shapes that depend on values; register tensors as parameters or buffers",
        ) from error
    measured = rig.measured()
    if differing := [name for name in measured if planned[name] != measured[name]]:
        name = differing[0]
        raise CheckFailed(
            f"{name}: {planned[name]} planned, {measured[name]} measured",
            "make the operations of a step depend on shapes only, not on values or on the number of steps so far",
        )
