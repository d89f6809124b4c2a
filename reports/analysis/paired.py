"""Accuracy over users: interval of each method, and tests of the differences between methods, paired by user.

The contribution of a user to a metric is averaged over the seeds first; then users are drawn (bootstrap) or their two
results are swapped (permutation test). These intervals and tests therefore cover other users of the same trained
models. Variation between seeds is covered by the t interval over seeds; neither interval contains the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.utils.errors import UserError
from reports.analysis import resampling
from reports.load import ranks
from reports.load.run_folders import Record

TESTED = (("hr", 10), ("ndcg", 10))
"""Metrics whose differences are tested; each metric is a family of its own in Holm's correction."""


@dataclass(frozen=True)
class Estimate:
    """Mean over users and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Difference of a metric between two methods (first minus second), paired by user, over their common seeds."""

    first: str
    second: str
    metric: str
    mean: float
    low: float
    high: float
    """Ends of the 95 % bootstrap interval over users, not corrected."""
    p: float
    p_holm: float
    """p after Holm's correction over all pairs of methods of the comparison."""
    seeds: int
    agreeing: int
    """Number of seeds in which the difference has the sign of the mean."""

    @property
    def shown(self) -> bool:
        """True if the corrected p is below the level, that is, a difference is shown."""
        return self.p_holm < resampling.LEVEL

    def turned(self) -> Difference:
        """The same difference as second minus first."""
        return replace(self, first=self.second, second=self.first, mean=-self.mean, low=-self.high, high=-self.low)


@dataclass(frozen=True)
class Paired:
    """Estimates and differences from the ranks of one comparison."""

    users: int
    seeds: Mapping[str, tuple[int, ...]]
    """Seeds with ranks, by method."""
    estimates: Mapping[tuple[str, str], Estimate]
    """Estimate by method and column, for instance ("lora", "hr@10")."""
    differences: tuple[Difference, ...]
    """Differences of all pairs that share a seed, in the order of the methods, metric by metric."""

    def difference(self, column: str, first: str, second: str) -> Difference | None:
        """Difference of two methods in a tested metric, first minus second; None if they share no seed with ranks."""
        for found in self.differences:
            if found.metric == column and {found.first, found.second} == {first, second}:
                return found if found.first == first else found.turned()
        return None


def pair(records: Sequence[Record], ks: Sequence[int]) -> Paired | None:
    """Compare the methods of one comparison by the test ranks of their users; None if no cell has ranks.

    Raises:
        UserError: two cells have ranks of different users; the message names both files.
    """
    kept = _by_method(records)
    if not kept:
        return None
    users = len(next(iter(next(iter(kept.values())).values())))
    estimates = _estimates(kept, ks)
    seeds = {method: tuple(sorted(found)) for method, found in kept.items()}
    return Paired(users, seeds, estimates, _differences(kept))


Kept = dict[str, dict[int, NDArray[np.int64]]]


def _by_method(records: Sequence[Record]) -> Kept:
    """Test ranks, shape (users,), by method and seed."""
    kept: Kept = {}
    first: Record | None = None
    for record in records:
        if record.ranks is None:
            continue
        first = first or record
        if record.ranks.users != (first.ranks.users if first.ranks else ()):
            raise UserError(f"{record.ranks_path}: lists other users than {first.ranks_path}")
        kept.setdefault(str(record.row["method"]), {})[int(record.row.get("seed") or 0)] = record.ranks.test
    return kept


def _estimates(kept: Kept, ks: Sequence[int]) -> dict[tuple[str, str], Estimate]:
    wanted = [(metric, k) for metric in ranks.METRICS for k in sorted({*ks, *(k for _, k in TESTED)})]
    names = [(method, ranks.column(metric, k)) for method in kept for metric, k in wanted]
    values = np.stack(
        [
            np.mean([ranks.gains(found, metric, k) for found in seeds.values()], axis=0)
            for seeds in kept.values()
            for metric, k in wanted
        ],
        axis=1,
    )
    low, high = resampling.interval(resampling.resampled_means(values))
    found = zip(names, values.mean(axis=0), low, high, strict=True)
    return {name: Estimate(float(mean), float(bottom), float(top)) for name, mean, bottom, top in found}


def _differences(kept: Kept) -> tuple[Difference, ...]:
    """Differences of all pairs of methods in all tested metrics; each metric is a family in Holm's correction."""
    pairs = [
        (first, second, common)
        for first, second in itertools.combinations(kept, 2)
        if (common := sorted(kept[first].keys() & kept[second].keys()))
    ]
    if not pairs:
        return ()
    by_seed = [_by_seed(kept, pair, *tested) for tested in TESTED for pair in pairs]  # each (seeds, users)
    values = np.stack([differences.mean(axis=0) for differences in by_seed], axis=1)
    low, high = resampling.interval(resampling.resampled_means(values))
    p = resampling.permutation_p(values)
    corrected = np.concatenate([resampling.holm(family) for family in np.split(p, len(TESTED))])
    found = []
    for place, (tested, (first, second, common)) in enumerate(itertools.product(TESTED, pairs)):
        mean = float(values[:, place].mean())
        found.append(
            Difference(
                first=first,
                second=second,
                metric=ranks.column(*tested),
                mean=mean,
                low=float(low[place]),
                high=float(high[place]),
                p=float(p[place]),
                p_holm=float(corrected[place]),
                seeds=len(common),
                agreeing=int((np.sign(by_seed[place].mean(axis=1)) == np.sign(mean)).sum()),
            )
        )
    return tuple(found)


def _by_seed(kept: Kept, pair: tuple[str, str, Sequence[int]], metric: str, k: int) -> NDArray[np.float64]:
    """Difference of the contributions of each user, first method minus second, shape (seeds, users)."""
    first, second, common = pair
    return np.stack(
        [ranks.gains(kept[first][seed], metric, k) - ranks.gains(kept[second][seed], metric, k) for seed in common]
    )
