"""Comparisons: the cells that differ in nothing but method and seed, with what belongs to them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bench.utils.errors import UserError
from reports.analysis.options import DEFAULT, Options
from reports.analysis.paired import Difference, Paired, pair
from reports.analysis.tables import comparison_keys, is_key, unique
from reports.analysis.titles import titles
from reports.load.run_folders import Record, Run

BASELINE = "fft"
"""Method that all figures are compared with, if it ended ok."""

MOST_DRAWN = 24
"""Largest number of methods in a figure with a row per method; with more the figure would be too long to read."""

Z95 = 1.959964
"""Half-width of the 95 % interval of a normal variable in standard errors."""


@dataclass(frozen=True)
class Spread:
    """Mean of a figure with its 95 % interval and the source of the interval."""

    mean: float
    low: float | None
    high: float | None
    source: str
    """`seeds`: t interval over seeds. With one seed, `bootstrap`: over its users, if their ranks were kept; `users`:
    normal interval with standard error sqrt(p(1-p)/users), if not. `none`: no interval."""
    count: int
    """Number of seeds or users that the interval is computed from."""

    @property
    def half(self) -> float | None:
        """Half the width of the interval; None without an interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def overlaps(self, other: Spread) -> bool | None:
        """True if the intervals have a point in common; None if either is unknown."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Comparison:
    """Cells that differ in nothing but method and seed, with their tables, references and options."""

    title: str
    slug: str
    """Part of file names; empty if there is only one comparison."""
    results: pd.DataFrame
    summary: pd.DataFrame
    """A row per method, indexed by method."""
    records: tuple[Record, ...]
    references: Mapping[str, Mapping[str, float]]
    users: int | None
    options: Options = DEFAULT

    @cached_property
    def paired(self) -> Paired | None:
        """Accuracy over users, computed on first use; None without ranks or with randomly initialised backbones.

        Raises:
            UserError: as `reports.analysis.paired.pair`.
        """
        return None if self.random_weights else pair(self.records, self.options.ks)

    @property
    def methods(self) -> list[str]:
        """Methods of the comparison, in the order of the tables."""
        return [str(method) for method in self.summary.index]

    @cached_property
    def drawn(self) -> list[str]:
        """Methods shown in figures: all, or the `MOST_DRAWN` with the lowest TPME, in the order of the tables."""
        if len(self.methods) <= MOST_DRAWN:
            return self.methods
        # A stable sort: methods without a score come last, in their order.
        first = set(self.summary["tpme"].sort_values(kind="stable", na_position="last").index[:MOST_DRAWN])
        return [method for method in self.methods if method in first]

    @property
    def random_weights(self) -> bool:
        """True if the backbones were initialised at random, so that accuracy has no meaning."""
        return bool((self.results["weights"] == "random").any())

    @property
    def compiled(self) -> bool:
        """True if the timed steps were compiled; the account of memory and the FLOPs are then of an eager step."""
        return any(record.training.get("compile") is True for record in self.records)

    @property
    def unmetered(self) -> bool:
        """True if the steps were compiled and no meter measured their memory."""
        return self.compiled and not self.measured("peak_memory_bytes")

    def value(self, method: str, column: str) -> float | None:
        """Mean of a figure of a method over its seeds; None if it was not measured."""
        if method not in self.summary.index or column not in self.summary.columns:
            return None
        value: Any = self.summary.at[method, column]
        return None if pd.isna(value) else float(value)

    def seeds(self, method: str) -> int:
        """Number of seeds with which a method ended ok."""
        return int(self.value(method, "seeds") or 0)

    def spread(self, method: str, column: str) -> Spread | None:
        """Mean of a figure of a method with its 95 % interval; None if it was not measured.

        With several seeds the interval is the t interval over seeds. With one seed, a ranking metric has a bootstrap
        interval over users if their ranks were kept; a hit rate without ranks has the normal interval of a share of
        users; any other figure has no interval.
        """
        mean = self.value(method, column)
        if mean is None:
            return None
        low, high = self.value(method, f"{column}_low"), self.value(method, f"{column}_high")
        if low is not None and high is not None:
            return Spread(mean, low, high, "seeds", self.seeds(method))
        estimate = self.paired.estimates.get((method, column)) if self.paired else None
        if estimate is not None and self.paired is not None:
            return Spread(mean, estimate.low, estimate.high, "bootstrap", self.paired.users)
        if "hr@" in column and self.users and 0 <= mean <= 1:
            half = Z95 * math.sqrt(mean * (1 - mean) / self.users)
            return Spread(mean, mean - half, mean + half, "users", self.users)
        return Spread(mean, None, None, "none", self.seeds(method))

    def tested(self, first: str, second: str, column: str = "hr@10") -> Difference | None:
        """Paired test of two methods over users; None if it was not made."""
        return self.paired.difference(column, first, second) if self.paired else None

    def reference(self, name: str, metric: str) -> float | None:
        """Value of a floor or ceiling, such as ("popularity", "hr@10"); None if the dataset does not give it."""
        value = self.references.get(name, {}).get(metric)
        return float(value) if isinstance(value, int | float) else None

    def warned(self, method: str) -> bool:
        """True if a cell of the method has a warning, so that its figures need care."""
        return any(record.warnings for record in self.records if record.row["method"] == method)

    def measured(self, column: str) -> list[str]:
        """Methods with a value of this figure, in the order of the tables."""
        return [method for method in self.methods if self.value(method, column) is not None]


def split_into_comparisons(
    runs: Sequence[Run],
    records: Sequence[Record],
    results: pd.DataFrame,
    summary: pd.DataFrame,
    options: Options = DEFAULT,
) -> list[Comparison]:
    """Split the tables into comparisons, in the order of first appearance.

    Args:
        runs: Source of the floors, the ceilings and the number of users.
        records: One per row of `results`, in the same order.
        results: Table of `tables.results`.
        summary: Table of `tables.summary`, made from `results`.
        options: Options that both tables were made with.

    Raises:
        UserError: a method has different options within one comparison; the message names two of the records.
    """
    result_keys, summary_keys = comparison_keys(results), comparison_keys(summary)
    keys = unique(result_keys)
    found = [is_key(result_keys, key) for key in keys]
    members = [tuple(record for record, is_mine in zip(records, mine, strict=True) if is_mine) for mine in found]
    folders = {run.path: _data_folder(run) for run in runs}
    named = titles(keys, [folders[own[0].run] for own in members])
    datasets = {run.path: run.dataset for run in runs}
    cut: list[Comparison] = []
    for key, title, mine, own in zip(keys, named, found, members, strict=True):
        _one_meaning(own)
        known = [dataset for record in own if (dataset := datasets[record.run])]
        dataset = known[0] if known else {}
        cut.append(
            Comparison(
                title=title,
                slug="" if len(keys) == 1 else f"{len(cut) + 1}-{slug(title)}",
                results=results[mine],
                summary=summary[is_key(summary_keys, key)].set_index("method"),
                records=own,
                references=_references(dataset),
                users=_test_users(dataset),
                options=options,
            )
        )
    return cut


def _one_meaning(records: Sequence[Record]) -> None:
    """Refuse a method whose records have different options, since one row would then mix two methods."""
    seen: dict[str, Record] = {}
    for record in records:
        if not record.method:
            continue
        first = seen.setdefault(str(record.row["method"]), record)
        if (first.method.get("type"), first.method.get("options")) != (
            record.method.get("type"),
            record.method.get("options"),
        ):
            raise UserError(
                f"method {record.row['method']!r} has other options in {record.path} than in {first.path}: "
                "give one of them another name"
            )


def _test_users(dataset: Mapping[str, Any]) -> int | None:
    """Number of users with a test target; with a split by time it is less than the number of users."""
    split = dataset.get("split")
    found = (split if isinstance(split, dict) else {}).get("test_users", dataset.get("users"))
    return found if isinstance(found, int) else None


def _references(dataset: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    references = dataset.get("references")
    if not isinstance(references, dict):
        return {}
    return {str(name): values for name, values in references.items() if isinstance(values, dict)}


def _data_folder(run: Run) -> str | None:
    """Name of the data folder of a run; None if the matrix has none."""
    dataset = run.matrix.get("dataset")
    folder = dataset.get("data_dir") if isinstance(dataset, dict) else None
    return Path(folder).name or None if isinstance(folder, str) else None


def slug(text: str) -> str:
    """Part of a file name: lower-case letters, digits and hyphens, at most 60 characters."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-") or "comparison"
