"""Builds of cache files, in this process and in processes that tests kill; a small catalogue to store."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache.array_cache import Served, open_or_build
from bench.data.cache.array_file import Layout
from bench.data.cache.catalogue_store import catalogue_digest
from bench.data.catalogue import Catalogue
from tests.data.cache.build_rows import LAYOUT, row_values

ROOT = Path(__file__).resolve().parents[3]


def start(folder: Path, log: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.data.cache.build_rows", str(folder), str(log), str(pause)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip()


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def wait_for(path: Path, n_lines: int) -> None:
    deadline = time.monotonic() + 30
    while len(lines(path)) < n_lines:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def build(folder: Path, layout: Layout = LAYOUT) -> tuple[Served, list[int]]:
    """What is served, and the first row of every block that was computed for it."""
    computed: list[int] = []

    def compute(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        computed.append(int(rows[0]))
        return row_values(rows)

    return open_or_build(folder, layout, compute), computed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def make_catalogue(with_images: bool = True) -> Catalogue:
    rng = np.random.default_rng(3)
    ids, titles = tuple(f"i{n}" for n in range(9)), tuple(f'title {n} ½" é 漢 \u2028' for n in range(9))
    sequences = tuple(rng.integers(0, 9, length).astype(np.int32) for length in (5, 13, 7))
    images = rng.integers(0, 256, (9, 4, 5, 3), dtype=np.uint8) if with_images else None
    return Catalogue(
        name="test",
        digest=catalogue_digest(ids, titles, ("u", "v", "w"), sequences, images),
        item_ids=ids,
        titles=titles,
        images=images,
        user_ids=("u", "v", "w"),
        sequences=sequences,
        dropped={"short users": 2},
        notes=("a note",),
        truth=object(),
    )
