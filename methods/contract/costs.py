"""Does it cost what it seems to."""

from __future__ import annotations

import torch

from methods.base import HiddenMethod
from methods.contract.rig import STEPS, Broken, NotApplicable, Rig, take_steps

RTOL, ATOL = 1e-4, 1e-5
"""Live and cached states of one batch are the same numbers; what comes after may sum in another order."""


def memory_is_steady(rig: Rig) -> None:
    """Many steps take no more than one."""
    case = rig.case()
    take_steps(case)
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
        runs.append((start, torch.tensor(take_steps(case)), case.vectors()))
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
