"""Lines of the cached method: a cache built just now and one found, and a cell that is killed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from reports.load.run_folders import Record
from tests.gpu.checks.cells import MIB, ended_ok
from tests.gpu.line import NEEDS_CARD, CheckError, Line, at_most, equal, skipped
from tests.gpu.runs import CACHED, Runs


def losses(record: Record) -> np.ndarray:
    """Loss of every step of a cell that ended ok."""
    return pd.read_csv(ended_ok(record).steps_path)["loss"].to_numpy()


def apart(one: Record, other: Record) -> float:
    """Largest relative difference of the losses of two cells, over the steps that both have, in percent."""
    first, second = losses(one), losses(other)
    both = min(len(first), len(second))
    if not both:
        raise CheckError("no losses")
    return float(100 * np.max(np.abs(first[:both] / second[:both] - 1)))


def cache(runs: Runs) -> Iterator[Line]:
    """Peaks of the cell that builds its cache and of the one that finds it."""
    built, found = ended_ok(runs.cells()[CACHED]), ended_ok(runs.found()[CACHED])
    for name in ("peak_memory_bytes", "peak_reserved_bytes", "peak_allocated_bytes"):
        what = f"{CACHED}: {name} with a cache built and one found"
        peaks = built.row[name], found.row[name]
        if runs.dry and None in peaks:
            yield skipped(what, NEEDS_CARD)
        elif None in peaks or built.row["memory_source"] != found.row["memory_source"]:
            raise CheckError(f"{name} is unknown, or has another source in each of the two cells")
        else:
            yield at_most(what, abs(peaks[0] - peaks[1]) / MIB, 64, "MiB apart")


def resumed(runs: Runs) -> Iterator[Line]:
    """A cell that was ended by SIGKILL after its first checkpoint, and the same cell left alone."""
    alone, killed = ended_ok(runs.found()[CACHED]), ended_ok(runs.killed()[CACHED])
    yield equal(f"{CACHED}: times resumed after kill -9", killed.resumed.get("times", 0), 1)
    yield equal(f"{CACHED}: steps after kill -9", killed.row["steps"], alone.row["steps"])
    # Sums of atomic additions on a card depend on their order.
    limit = 0 if runs.dry else 1
    yield at_most(f"{CACHED}: losses after kill -9 against those without", apart(killed, alone), limit, "%")
