"""The search space: which options of a method are searched and in which range, by the same rules for every method."""

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
    """Ranges of the searched options.

    Attributes:
        rates: lowest and highest learning rate; draws are uniform in the logarithm.
        sizes: values for options that count something (rank, bottleneck, positions).
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
        """The ranges as in ``tuning.json``."""
        return {"lr_range": list(self.rates), "sizes": list(self.sizes)}


def searched(method: Method) -> dict[str, str]:
    """Searched option of a method -> "rate" (name starts with lr) or "size" (type is Count).

    A count in a table-valued option (``Method.counted``) has the name "option.entry".
    """
    hints = typing.get_type_hints(type(method), include_extras=True)
    options = {}
    for field in dataclasses.fields(method):
        if field.name.startswith("lr"):
            options[field.name] = "rate"
        elif hints[field.name] == Count:
            options[field.name] = "size"
    return options | dict.fromkeys(method.counted(), "size")


def distributions(method: MethodConfig, space: Space) -> dict[str, BaseDistribution]:
    """Searched option of a method -> distribution that Optuna draws it from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    low, high = space.rates
    return {
        name: FloatDistribution(low, high, log=True) if kind == "rate" else CategoricalDistribution(space.sizes)
        for name, kind in searched(build_method(method, "matrix")).items()
    }


def recipe_values(method: MethodConfig, space: Space) -> dict[str, Any]:
    """Searched option of a method -> its value in the recipe, moved to the nearest value within the space."""
    low, high = space.rates
    built = build_method(method, "matrix")
    values: dict[str, Any] = {}
    for name, kind in searched(built).items():
        option, _, entry = name.partition(".")
        value = getattr(built, option)[entry] if entry else getattr(built, option)
        values[name] = min(max(value, low), high) if kind == "rate" else min(space.sizes, key=lambda s: abs(s - value))
    return values


def with_values(method: MethodConfig, values: Mapping[str, Any]) -> MethodConfig:
    """The method with other values of its options.

    Args:
        values: option, named as in :func:`searched` -> value.
    """
    built, options = build_method(method, "matrix"), dict(method.options)
    for name, value in values.items():
        option, _, entry = name.partition(".")
        options[option] = {**options.get(option, getattr(built, option)), entry: value} if entry else value
    return dataclasses.replace(method, options=options)
