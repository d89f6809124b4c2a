"""A million items and half a million users: how long loading, splitting and an epoch take, and in how much memory.

    python -m tests.benchmarks.million [--items N] [--users N]

Writes tables to a temporary folder (some 400 MB, and 0.9 GB of hidden states), reads them as `--dataset table` does,
and prints seconds and memory phase by phase. VmHWM is the process's peak; it counts pages of mapped files that the
system may take back at any time, so what the process holds itself (RssAnon) stands beside it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from bench.data.baselines import popularity_ranks
from bench.data.batches import epoch_batches, largest_batch, log_popularity, median_batch
from bench.data.datasets import split_catalogue
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.models.backbones import locate
from bench.models.inputs import ItemFeed, tokenise

LAYERS, WIDTH = 7, 64
BATCH_USERS = 32
ROWS_AT_A_TIME = 1 << 17
Result = TypeVar("Result")


def memory(field: str) -> float:
    """A line of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def phase(name: str, work: Callable[[], Result]) -> Result:
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    print(
        f"{name:34} {seconds:8.1f} s   VmHWM {memory('VmHWM'):7.0f} MB   RssAnon {memory('RssAnon'):7.0f} MB",
        flush=True,
    )
    return result


def write_tables(folder: Path, items: int, users: int) -> None:
    """Titles of eight words out of 50,000; 5 to 15 interactions per user, half of them with popular items."""
    rng = np.random.default_rng(0)
    with (folder / "items.csv").open("w") as file:
        file.write("item,title\n")
        for start in range(0, items, ROWS_AT_A_TIME):
            words = rng.integers(0, 50_000, (min(ROWS_AT_A_TIME, items - start), 8))
            file.writelines(
                f"i{start + i:07d},{' '.join(f'w{w}' for w in row)}\n" for i, row in enumerate(words.tolist())
            )
    with (folder / "interactions.csv").open("w") as file:
        file.write("user,item,timestamp\n")
        for start in range(0, users, ROWS_AT_A_TIME):
            lengths = rng.integers(5, 16, min(ROWS_AT_A_TIME, users - start))
            total = int(lengths.sum())
            popular = np.minimum(rng.zipf(1.3, total), items) - 1
            found = np.where(rng.random(total) < 0.5, rng.integers(0, items, total), popular)
            owners = np.repeat(np.arange(start, start + len(lengths)), lengths)
            rows = zip(owners.tolist(), found.tolist(), rng.integers(1.5e9, 1.7e9, total).tolist(), strict=True)
            file.writelines(f"u{user},i{item:07d},{moment}\n" for user, item, moment in rows)


def write_states(path: Path, items: int) -> np.memmap:
    """Hidden states of every item in 16 bit, written some at a time."""
    states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(items, LAYERS, WIDTH))
    states.flush()
    del states
    rng = np.random.default_rng(1)
    with path.open("r+b") as file:
        file.seek(os.path.getsize(path) - items * LAYERS * WIDTH * 2)
        for start in range(0, items, ROWS_AT_A_TIME):
            rows = min(ROWS_AT_A_TIME, items - start)
            file.write(rng.standard_normal((rows, LAYERS, WIDTH), dtype=np.float32).astype(np.float16).tobytes())
    return np.load(path, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=500_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["IISAN_BENCH_CACHE"] = str(folder / "cache")
        print(f"{args.items:,} items, {args.users:,} users, torch {torch.__version__}")
        phase("imports", lambda: None)
        phase("write the tables", lambda: write_tables(folder, args.items, args.users))
        config = FilesConfig("table", folder)
        phase("load, first time", lambda: load_files(config, None))
        catalogue = phase("load, from the cache", lambda: load_files(config, None))
        print(f"  {len(catalogue.item_ids):,} items, {len(catalogue.user_ids):,} users, {catalogue.dropped}")
        splits = phase("split", lambda: split_catalogue(catalogue))
        phase("popularity floor", lambda: popularity_ranks(splits))
        phase("tokenise", lambda: tokenise(catalogue, locate("shop-absent", "text", "pretrained"), 30))
        phase("log-popularity", lambda: log_popularity(splits))
        phase("largest batch", lambda: largest_batch(splits, BATCH_USERS, 0))
        phase("median batch", lambda: median_batch(splits, BATCH_USERS, 0))
        states = phase("write hidden states", lambda: write_states(folder / "states.npy", len(catalogue.item_ids)))
        feed = ItemFeed(arrays={"hidden": states})

        def epoch() -> int:
            return sum(len(feed.gather(batch.unique)["hidden"]) for batch in epoch_batches(splits, BATCH_USERS, 0, 1))

        print(f"  {phase('an epoch of batches', epoch):,} items gathered in steps of {BATCH_USERS} users")
        moments = FilesConfig("table", folder, valid_from="1650000000", test_from="1675000000")
        in_time = phase("load and split in time", lambda: split_catalogue(load_files(moments, None)))
        print(f"  {len(in_time.train):,} train, {len(in_time.valid_users):,} valid, {len(in_time.test_users):,} test")


if __name__ == "__main__":
    main()
