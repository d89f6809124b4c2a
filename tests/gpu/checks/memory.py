"""Lines of a cell that must run out of memory, and of the one after it, which must not."""

from __future__ import annotations

from collections.abc import Iterator

from tests.gpu.line import NEEDS_CARD, Line, equal, skipped
from tests.gpu.runs import CACHED, Runs

OUT = "fft: status with all users in one step"
NEXT = f"{CACHED}: status of the next cell"


def out_of_memory(runs: Runs) -> Iterator[Line]:
    """Statuses of both cells."""
    if runs.dry:
        yield skipped(OUT, NEEDS_CARD)
        yield skipped(NEXT, NEEDS_CARD)
        return
    cells = runs.out_of_memory()
    yield equal(OUT, cells["fft"].row["status"], "oom", cells["fft"].row["error"])
    yield equal(NEXT, cells[CACHED].row["status"], "ok", cells[CACHED].row["error"])
