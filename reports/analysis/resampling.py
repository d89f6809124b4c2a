"""Bootstrap, permutation test and Holm's correction on arrays.

All random generators have a fixed seed, so that the same records give the same report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

FloatArray = NDArray[np.float64]

RESAMPLES = 2000
PERMUTATIONS = 9999
LEVEL = 0.05
"""Level of the tests: from this corrected p on, no difference is shown; intervals cover 1 minus this level."""

_SEED = 20240403
_CELLS_AT_ONCE = 1 << 20


def resampled_means(values: FloatArray, resamples: int = RESAMPLES) -> FloatArray:
    """Bootstrap of column means: rows are drawn with replacement.

    Columns share the draws: the difference of two replicated columns is the paired bootstrap of their difference.

    Args:
        values: Shape (n, columns), a row per unit that is drawn (a user).
        resamples: Number of resamples.

    Returns:
        Replicated means, shape (resamples, columns).
    """
    n = len(values)
    generator = np.random.default_rng(_SEED)
    at_once = max(1, _CELLS_AT_ONCE // n)
    parts = []
    for start in range(0, resamples, at_once):
        rows = min(at_once, resamples - start)
        drawn = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        parts.append(times @ values / n)
    return np.concatenate(parts)


def interval(replicates: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Ends of the 95 % percentile interval over the first axis; NaN replicates are ignored."""
    low, high = np.nanquantile(replicates, (LEVEL / 2, 1 - LEVEL / 2), axis=0)
    return low, high


def permutation_p(differences: FloatArray, permutations: int = PERMUTATIONS) -> FloatArray:
    """Two-sided p of the paired permutation test, which swaps the two members of randomly chosen pairs.

    `scipy.stats.permutation_test` runs once for all columns: it permutes pairs of one and zero, and their difference is
    the sign of each row. Rows of zeros have no effect and are left out.

    Args:
        differences: Shape (n, tests), first minus second per pair (a user); all tests share the permutations.
        permutations: Number of random permutations, if there are too many to try all.

    Returns:
        p of each test, shape (tests,); with random permutations at least 2 / (permutations + 1).
    """
    moving = differences[np.any(differences != 0, axis=1)]
    if not len(moving):
        return np.ones(differences.shape[1])
    if len(moving) == 1:  # scipy needs at least two rows; a row of zeros has no effect
        moving = np.concatenate([moving, np.zeros_like(moving)])

    def summed(ones: FloatArray, zeros: FloatArray, axis: int) -> Any:
        return np.moveaxis(ones - zeros, axis, -1) @ moving

    found = stats.permutation_test(
        (np.ones(len(moving)), np.zeros(len(moving))),
        summed,
        permutation_type="samples",
        n_resamples=permutations,
        batch=max(1, _CELLS_AT_ONCE // len(moving)),
        rng=np.random.default_rng(_SEED),
    )
    return np.asarray(found.pvalue)


def holm(p: FloatArray) -> FloatArray:
    """p after Holm's step-down correction of a family of tests, shape (tests,)."""
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def block_length(n: int) -> int:
    """Length of the blocks of the block bootstrap for a series of length n: n^(1/3), rounded up."""
    return math.ceil(round(n ** (1 / 3), 6))


def resampled_block_means(series: FloatArray, generator: np.random.Generator, resamples: int = RESAMPLES) -> FloatArray:
    """Circular block bootstrap of the mean of an autocorrelated series, with blocks of `block_length`.

    Args:
        series: Shape (n,) or (n, columns), in the order of time; columns share the draws.
        generator: Random generator of the starts of the blocks.
        resamples: Number of resamples.

    Returns:
        Replicated means, shape (resamples,) or (resamples, columns).
    """
    n = len(series)
    length = block_length(n)
    blocks = math.ceil(n / length)
    wrapped = np.concatenate([series, series[:length]])
    sums = np.concatenate([np.zeros_like(wrapped[:1]), np.cumsum(wrapped, axis=0)])
    starts = generator.integers(0, n, (resamples, blocks))
    return np.asarray((sums[starts + length] - sums[starts]).sum(axis=1) / (blocks * length))


def generator_for(*names: object) -> np.random.Generator:
    """Random generator whose seed is derived from the names, the same in every process."""
    return np.random.default_rng([_SEED, *(ord(letter) for letter in repr(names))])


def over_seeds(per_seed: Sequence[FloatArray], resamples: int = RESAMPLES) -> FloatArray:
    """Bootstrap over seeds: mean of the replicates of seeds that are drawn with replacement.

    Every call makes the same draws, so that methods with the same seeds are paired by seed. With one seed the
    replicates are returned as they are.

    Args:
        per_seed: Replicates of a figure for each seed, shape (resamples, ...).
        resamples: Length of each array of replicates.
    """
    stacked = np.stack(per_seed)
    drawn = np.random.default_rng(_SEED).integers(0, len(stacked), (resamples, len(stacked)))
    return np.asarray(stacked[drawn, np.arange(resamples)[:, None]].mean(axis=1))
