"""PSCP, performance under soft cost penalties (PEFT-Bench, arXiv 2511.21285): pure functions on numbers.

`PSCP = P · (1 + params / 5e8)^-1 · (1 + extra inference TFLOPs / 10)^-1 · (1 + memory in GB / 94)^-1`; higher is
better. A penalty is 1 for a cost of 0, 1/2 for a cost equal to the constant, and always above 0. Unlike TPME, PSCP
combines accuracy and cost in one score, needs absolute units, and does not depend on the other methods compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from bench.scoring.method_table import read_table
from bench.utils.errors import UserError

COSTS = ("params", "extra_tflops", "memory")
"""Trained parameters, TFLOPs of inference added by the method, peak memory in GB (10^9 bytes)."""

COLUMNS = ("performance", *COSTS)


@dataclass(frozen=True)
class Penalties:
    """Constants and exponents of the three penalties, in the order of `COSTS`.

    Attributes:
        constants: The cost at which a penalty with exponent 1 is 1/2; the paper's values by default.
        exponents: The power that a penalty is raised to; 0 turns it off.

    Raises:
        UserError: not three numbers each, a constant that is not above 0, an exponent below 0.
    """

    constants: tuple[float, ...] = (5e8, 10.0, 94.0)
    exponents: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        for field, values in (("constants", self.constants), ("exponents", self.exponents)):
            if len(values) != len(COSTS):
                raise UserError(f"PSCP {field}: {len(values)} given, expected three ({', '.join(COSTS)})")
        for name, constant, exponent in zip(COSTS, self.constants, self.exponents, strict=True):
            if not math.isfinite(constant) or constant <= 0:
                raise UserError(f"PSCP constants: the constant of {name} is {constant:g}; it must be above 0")
            if not math.isfinite(exponent) or exponent < 0:
                raise UserError(f"PSCP exponents: the exponent of {name} is {exponent:g}; it must be at least 0")

    def of(self, costs: Sequence[float]) -> tuple[float, ...]:
        """The three penalty factors, each above 0 and at most 1, of costs in the order of `COSTS`."""
        terms = zip(costs, self.constants, self.exponents, strict=True)
        return tuple((1 + cost / constant) ** -exponent for cost, constant, exponent in terms)


@dataclass(frozen=True)
class Penalised:
    """Score of a method, with its performance and penalties."""

    score: float
    performance: float
    penalties: tuple[float, ...]
    """Factors for parameters, extra inference and memory."""


def pscp(table: Mapping[str, Mapping[str, float]], settings: Penalties | None = None) -> dict[str, Penalised]:
    """Score every method of a table, in its order; higher is better.

    Args:
        table: Method -> values of `COLUMNS`. The score has the unit of the performance.
        settings: Constants and exponents; None for the paper's.

    Raises:
        UserError: a value is missing, negative or not finite.
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
        UserError: as `bench.scoring.method_table.read_table` and `pscp`; the message names the file.
    """
    rows = read_table(path, COLUMNS).to_dict("records")
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
