"""What is searched, by rules that hold for every method alike: no method has a space of its own."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.config import build_method
from bench.errors import UserError
from methods.base import Count, Method, method_class

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from bench.config import MethodConfig


@dataclass(frozen=True)
class Space:
    """Where values are drawn from.

    Attributes:
        rates: lowest and highest learning rate; uniform in its logarithm.
        sizes: of whatever a method counts (rank, bottleneck, positions).
    """

    rates: tuple[float, float] = (1e-5, 1e-2)
    sizes: tuple[int, ...] = (4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        low, high = self.rates
        if not 0 < low < high < float("inf"):
            raise UserError(f"--lr-range {low:g},{high:g}: expected two numbers above zero, the smaller one first")
        if not self.sizes or min(self.sizes) < 1 or len(set(self.sizes)) < len(self.sizes):
            raise UserError(f"--sizes {','.join(map(str, self.sizes))}: expected different numbers of at least 1")

    def as_dict(self) -> dict[str, Any]:
        """As it is kept beside the trials."""
        return {"lr_range": list(self.rates), "sizes": list(self.sizes)}


def searched(cls: type[Method]) -> dict[str, str]:
    """Which options of a method are searched, and as what: ``rate`` (its name starts with lr) or ``size`` (a Count)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        if field.name.startswith("lr"):
            found[field.name] = "rate"
        elif hints[field.name] == Count:
            found[field.name] = "size"
    return found


def distributions(method: MethodConfig, space: Space) -> dict[str, BaseDistribution]:
    """A method's options as Optuna draws them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = space.rates
    return {
        name: FloatDistribution(low, high, log=True) if kind == "rate" else CategoricalDistribution(space.sizes)
        for name, kind in searched(method_class(method.kind)).items()
    }


def recipe(method: MethodConfig, space: Space) -> dict[str, Any]:
    """A method's options as the recipe has them, brought to the nearest value that could be drawn."""
    low, high = space.rates
    built = build_method(method, "matrix")
    found: dict[str, Any] = {}
    for name, kind in searched(type(built)).items():
        value = getattr(built, name)
        found[name] = min(max(value, low), high) if kind == "rate" else min(space.sizes, key=lambda s: abs(s - value))
    return found
