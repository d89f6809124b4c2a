"""Interfaces of the conformance checks: the rig that the harness provides, and the results of a check.

``bench.commands.check.conformance`` implements :class:`Rig` and :class:`Case`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from methods.base import Encoder, Group, ItemEncoder, Method

BOTH = ("text", "image")

STEPS = 3


class CheckFailed(Exception):
    """The method does not meet the requirement of a check.

    Attributes:
        finding: the observed violation.
        advice: how to fix it.
    """

    def __init__(self, finding: str, advice: str):
        super().__init__(finding)
        self.finding = finding
        self.advice = advice


class NotApplicable(Exception):
    """The check does not apply to this kind of method; the message says why."""


class Case(Protocol):
    """A model built by the harness with its trainer, and one small batch that all steps use.

    Attributes:
        model: item encoder and user encoder.
        items: the method's item encoder.
        groups: learning-rate groups of the method and of the user encoder.
        encoders: backbones that run in every step, by modality; empty if their states come from the cache.
        optimised: parameters of the optimizer.
    """

    model: nn.Module
    items: ItemEncoder
    groups: tuple[Group, ...]
    encoders: Mapping[str, Encoder]
    optimised: Sequence[nn.Parameter]

    def vectors(self) -> Tensor:
        """Item vectors of the batch in eval mode, (n, d)."""

    def loss(self) -> float:
        """Loss of the batch, in eval mode."""

    def forward(self) -> Tensor:
        """Loss of the batch in train mode, a scalar with its graph."""

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss."""

    def update(self) -> None:
        """Take an optimizer step and free the gradients."""

    def peak(self, steps: int) -> int:
        """Live tensor bytes at the peak of this number of further steps."""


@dataclass(frozen=True)
class GlobalState:
    """State outside the method, which it must not change.

    Attributes:
        settings: torch's settings by name.
        outputs: output of an encoder that no method was given, by modality.
    """

    settings: Mapping[str, Any]
    outputs: Mapping[str, Tensor]


class Rig(Protocol):
    """Method under test, with the means to build, train and measure it.

    Attributes:
        method: the method with its default options.
        width: d, the width of item vectors.
        import_changes: names of global settings that importing the method's file changed.
        before: global state before the method was first built.
    """

    method: Method
    width: int
    import_changes: Sequence[str]
    before: GlobalState

    def case(self, modalities: Sequence[str] = BOTH, seed: int = 0, cached: bool | None = None) -> Case:
        """Build the method, seeded with ``seed``; backbones and batch are always the same."""

    def encoder(self, modality: str) -> Encoder:
        """Backbone as a method gets it, always with the same weights."""

    def inputs(self) -> Mapping[str, Tensor]:
        """Item inputs of both modalities."""

    def planned(self) -> Mapping[str, int]:
        """Costs of a step on fake tensors, in bytes or FLOPs by name."""

    def measured(self) -> Mapping[str, int]:
        """Costs of a step on real tensors, with the same names as in :meth:`planned`."""


def take_steps(case: Case, n: int = STEPS) -> list[float]:
    """Take ``n`` training steps and return their losses, each before the update."""
    losses = []
    for _ in range(n):
        loss = case.forward()
        losses.append(loss.item())
        case.backward(loss)
        case.update()
    return losses


def declared_of(case: Case) -> list[nn.Parameter]:
    """Parameters that the groups declare as trained, including those of the user encoder."""
    return [p for group in case.groups for p in group.parameters]
