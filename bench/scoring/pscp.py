"""PSCP, performance under soft cost penalties (PEFT-Bench, arXiv 2511.21285): pure functions on numbers.

`PSCP = P · (1 + params / 5e8)^-1 · (1 + extra inference TFLOPs / 10)^-1 · (1 + memory in GB / 94)^-1`; higher is
better. A penalty is 1 where a method costs nothing, 1/2 where it costs as much as the constant, and never reaches 0.
Unlike TPME it holds accuracy and cost in one figure, needs absolute units, and does not depend on who else is compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from bench.scoring.method_table import read_table
from bench.utils.errors import UserError, naming

COSTS = ("params", "extra_tflops", "memory")
"""Trained values, TFLOPs of inference beyond those of the model without the method, GB (10^9 bytes) at the peak."""

COLUMNS = ("performance", *COSTS)


@dataclass(frozen=True)
class Penalties:
    """At which cost a penalty halves the score, and how hard it is; in the order of `COSTS`.

    Raises:
        UserError: not three numbers each, a constant that is not above 0, an exponent below 0.
    """

    constants: tuple[float, ...] = (5e8, 10.0, 94.0)
    exponents: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for what, values in (("constants", self.constants), ("exponents", self.exponents)):
            if len(values) != len(COSTS):
                raise UserError(f"PSCP {what}: {len(values)} given, expected three ({', '.join(COSTS)})")
        for name, constant, exponent in zip(COSTS, self.constants, self.exponents, strict=True):
            if not math.isfinite(constant) or constant <= 0:
                raise UserError(f"PSCP constants: that of {name} is {constant:g}; a constant is above 0")
            if not math.isfinite(exponent) or exponent < 0:
                raise UserError(f"PSCP exponents: that of {name} is {exponent:g}; an exponent is at least 0")

    def of(self, costs: Sequence[float]) -> tuple[float, ...]:
        """The three factors, each above 0 and at most 1, for costs in the order of `COSTS`."""
        terms = zip(costs, self.constants, self.exponents, strict=True)
        return tuple((1 + cost / constant) ** -exponent for cost, constant, exponent in terms)


@dataclass(frozen=True)
class Penalised:
    """A method's score and what it is made of."""

    score: float
    performance: float
    penalties: tuple[float, ...]
    """The factors of parameters, extra inference and memory."""


def pscp(table: Mapping[str, Mapping[str, float]], settings: Penalties | None = None) -> dict[str, Penalised]:
    """Score every method of a table, in its order; higher is better.

    Args:
        table: Method -> values of `COLUMNS`. The score has the unit of the performance.
        settings: Constants and exponents; those of the paper if None.

    Raises:
        UserError: a value that is missing, negative, or not finite.
    """
    used = settings or Penalties()
    scores = {}
    for name, row in table.items():
        performance, *costs = (_value(name, row, column) for column in COLUMNS)
        penalties = used.of(costs)
        scores[name] = Penalised(performance * math.prod(penalties), performance, penalties)
    return scores


def order_of(scores: Mapping[str, Penalised]) -> tuple[str, ...]:
    """Methods from the highest score to the lowest; ties keep the order of the mapping."""
    return tuple(sorted(scores, key=lambda name: -scores[name].score))


def score(path: Path, settings: Penalties | None = None) -> dict[str, Penalised]:
    """Score the table of a CSV file with the columns method, performance, params, extra_tflops and memory (GB).

    Raises:
        UserError: as `bench.scoring.method_table.read_table` and `pscp`; the line names the file.
    """
    rows = read_table(path, COLUMNS).to_dict("records")
    with naming(path):
        return pscp({str(row["method"]): {name: float(row[name]) for name in COLUMNS} for row in rows}, settings)


def _value(name: str, row: Mapping[str, object], column: str) -> float:
    value = row.get(column)
    if value is None:
        raise UserError(f"method {name!r}: {column} is missing")
    if not isinstance(value, Real):
        raise UserError(f"method {name!r}: {column} is {value!r}, not a number")
    if not math.isfinite(value) or value < 0:
        raise UserError(f"method {name!r}: {column} is {float(value)}, not a finite number of at least 0")
    return float(value)
