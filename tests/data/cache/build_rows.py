"""A builder in a process of its own, with a clock that ticks alike in every build:

    python -m tests.data.cache.build_rows FOLDER LOG SECONDS_PER_BLOCK

It notes the first row of every block that it computes, and prints whether it found or built the array, and its sum.
"""

import itertools
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import array_cache
from bench.data.cache.array_file import Layout

KEY = "0123456789abcdef" * 2
LAYOUT = Layout(KEY, "states", (12 * 256 + 100, 3, 8), "float32", {"model": "none"})


def row_values(rows: NDArray[np.int64]) -> NDArray[np.float32]:
    within = np.arange(24, dtype=np.float32).reshape(3, 8)
    return (rows[:, None, None] * np.float32(0.5) + within).astype(np.float32)


def main() -> None:
    folder, log, pause = sys.argv[1:]
    ticks = itertools.count(0.0, 0.125)
    array_cache.perf_counter = ticks.__next__  # type: ignore[attr-defined]

    def compute(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        with Path(log).open("a") as file:
            file.write(f"{rows[0]}\n")
        time.sleep(float(pause))
        return row_values(rows)

    served = array_cache.open_or_build(Path(folder), LAYOUT, compute)
    print(served.reused, np.asarray(served.rows, dtype=np.float64).sum())


if __name__ == "__main__":
    main()
