"""What is searched, by rules that hold for every method alike: no method has a space of its own."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.config.matrix import build_method
from bench.utils.errors import UserError
from methods.base import Count, Method

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from bench.config.matrix import MethodConfig


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


def searched(method: Method) -> dict[str, str]:
    """Which options of a method are searched, and as what: ``rate`` (its name starts with lr) or ``size`` (a Count).

    What a method says it counts in an option that is a table is called "option.entry".
    """
    hints = typing.get_type_hints(type(method), include_extras=True)
    found = {}
    for field in dataclasses.fields(method):
        if field.name.startswith("lr"):
            found[field.name] = "rate"
        elif hints[field.name] == Count:
            found[field.name] = "size"
    return found | dict.fromkeys(method.counted(), "size")


def distributions(method: MethodConfig, space: Space) -> dict[str, BaseDistribution]:
    """A method's options as Optuna draws them."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = space.rates
    return {
        name: FloatDistribution(low, high, log=True) if kind == "rate" else CategoricalDistribution(space.sizes)
        for name, kind in searched(build_method(method, "matrix")).items()
    }


def recipe(method: MethodConfig, space: Space) -> dict[str, Any]:
    """A method's options as the recipe has them, brought to the nearest value that could be drawn."""
    low, high = space.rates
    built = build_method(method, "matrix")
    found: dict[str, Any] = {}
    for name, kind in searched(built).items():
        option, _, entry = name.partition(".")
        value = getattr(built, option)[entry] if entry else getattr(built, option)
        found[name] = min(max(value, low), high) if kind == "rate" else min(space.sizes, key=lambda s: abs(s - value))
    return found


def with_values(method: MethodConfig, values: Mapping[str, Any]) -> MethodConfig:
    """The method with these values, by names as in :func:`searched`, in place of its own."""
    built, options = build_method(method, "matrix"), dict(method.options)
    for name, value in values.items():
        option, _, entry = name.partition(".")
        options[option] = {**options.get(option, getattr(built, option)), entry: value} if entry else value
    return dataclasses.replace(method, options=options)
