"""What the checks are run on, and what they say.

The harness supplies the rig (``bench.commands.check.conformance``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from methods.base import Encoder, Group, ItemEncoder, Method

BOTH = ("text", "image")

STEPS = 3


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


def take_steps(case: Case, n: int = STEPS) -> list[float]:
    """The losses of some training steps, each before its update."""
    losses = []
    for _ in range(n):
        loss = case.forward()
        losses.append(loss.item())
        case.backward(loss)
        case.update()
    return losses


def declared_of(case: Case) -> list[nn.Parameter]:
    """What is said to train, the user encoder's included."""
    return [p for group in case.groups for p in group.parameters]
