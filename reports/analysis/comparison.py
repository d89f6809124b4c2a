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
"""The method that all figures are set against where it ended ok."""

MOST_DRAWN = 24
"""Figures with more methods than this would be longer than anybody reads."""

Z95 = 1.959964
"""Half-width of the 95 % interval of a normal variable in standard errors."""


@dataclass(frozen=True)
class Spread:
    """A figure with its 95 % interval, and where the interval comes from."""

    mean: float
    low: float | None
    high: float | None
    source: str
    """`seeds`: t interval over seeds; of one seed `bootstrap`: over its users, where their ranks were kept, and
    `users`: sqrt(p(1-p)/users), where not; `none`: there is no interval."""
    count: int
    """How many seeds or users the interval rests on."""

    @property
    def half(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    def overlaps(self, other: Spread) -> bool | None:
        """Whether the intervals have a point in common; None where either is unknown."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Comparison:
    """One comparison."""

    title: str
    slug: str
    """Goes into file names; empty where there is only one comparison."""
    results: pd.DataFrame
    summary: pd.DataFrame
    """A row per method, indexed by method."""
    records: tuple[Record, ...]
    references: Mapping[str, Mapping[str, float]]
    users: int | None
    options: Options = DEFAULT

    @cached_property
    def paired(self) -> Paired | None:
        """Accuracy over users, computed when first asked for; None without ranks, or where accuracy has no meaning.

        Raises:
            UserError: as `reports.analysis.paired.pair`.
        """
        return None if self.random_weights else pair(self.records, self.options.ks)

    @property
    def methods(self) -> list[str]:
        """All methods of the comparison in the order of the tables."""
        return [str(method) for method in self.summary.index]

    @cached_property
    def drawn(self) -> list[str]:
        """The methods that figures show: all, or the `MOST_DRAWN` first by TPME, in the order of the tables."""
        if len(self.methods) <= MOST_DRAWN:
            return self.methods
        # A stable sort: methods without a score come last, in their order.
        first = set(self.summary["tpme"].sort_values(kind="stable", na_position="last").index[:MOST_DRAWN])
        return [method for method in self.methods if method in first]

    @property
    def random_weights(self) -> bool:
        """Whether the backbones were never pretrained, so that accuracy has no meaning."""
        return bool((self.results["weights"] == "random").any())

    @property
    def compiled(self) -> bool:
        """Whether the steps were compiled; then what was probed beside them is of other steps, eager ones."""
        return any(record.training.get("compile") is True for record in self.records)

    @property
    def unmetered(self) -> bool:
        """Whether the steps were compiled and nothing measured what memory that takes."""
        return self.compiled and not self.measured("peak_memory_bytes")

    def value(self, method: str, column: str) -> float | None:
        """A figure of a method in the mean over its seeds; None where it was not measured."""
        if method not in self.summary.index or column not in self.summary.columns:
            return None
        value: Any = self.summary.at[method, column]
        return None if pd.isna(value) else float(value)

    def seeds(self, method: str) -> int:
        """With how many seeds a method ended ok."""
        return int(self.value(method, "seeds") or 0)

    def spread(self, method: str, column: str) -> Spread | None:
        """A figure of a method with its 95 % interval; None where it was not measured.

        With several seeds it is the t interval over them. With one, a ranking metric has a bootstrap interval over
        users where their ranks were kept, a hit rate without ranks the standard error of a share of users, and any
        other figure has none.
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
        """The difference of two methods, paired by user; None where that was not tested."""
        return self.paired.difference(column, first, second) if self.paired else None

    def reference(self, name: str, metric: str) -> float | None:
        """A floor or ceiling such as ("popularity", "hr@10"); None where the dataset knows none."""
        value = self.references.get(name, {}).get(metric)
        return float(value) if isinstance(value, int | float) else None

    def warned(self, method: str) -> bool:
        """Whether a cell of a method has a warning, so that its figures are to be read with care."""
        return any(record.warnings for record in self.records if record.row["method"] == method)

    def measured(self, column: str) -> list[str]:
        """The methods that have this figure."""
        return [method for method in self.methods if self.value(method, column) is not None]


def split_into_comparisons(
    runs: Sequence[Run],
    records: Sequence[Record],
    results: pd.DataFrame,
    summary: pd.DataFrame,
    options: Options = DEFAULT,
) -> list[Comparison]:
    """Cut the tables into comparisons, in the order of first appearance.

    Args:
        runs: Where floors, ceilings and the number of users come from.
        records: One per row of `results`, in its order.
        results: As `tables.results` makes it.
        summary: As `tables.summary` makes it from `results`.
        options: Those that both tables were made with.

    Raises:
        UserError: a method has different options in one comparison.
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
    """Within a comparison a method's name must stand for one set of options, or its row would mix two methods."""
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
    """How many users the test figures are of; when time splits the data, not everyone has a test target."""
    split = dataset.get("split")
    found = (split if isinstance(split, dict) else {}).get("test_users", dataset.get("users"))
    return found if isinstance(found, int) else None


def _references(dataset: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    references = dataset.get("references")
    if not isinstance(references, dict):
        return {}
    return {str(name): values for name, values in references.items() if isinstance(values, dict)}


def _data_folder(run: Run) -> str | None:
    """The name of the folder that the data of a run lie in."""
    dataset = run.matrix.get("dataset")
    folder = dataset.get("data_dir") if isinstance(dataset, dict) else None
    return Path(folder).name or None if isinstance(folder, str) else None


def slug(text: str) -> str:
    """A file name's part: small letters, digits and hyphens, at most 60 of them."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60].rstrip("-") or "comparison"
