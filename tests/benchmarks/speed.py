"""How fast the hot paths are against plain implementations written here. Run by hand; nothing is asserted.

    python -m tests.benchmarks.speed

64 users x 11 items, 7 layers x 768 of two modalities; ranking of 12,076 users x 20,314 items x 64.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bench.data.batches import Batch, log_popularity, make_batch
from bench.data.cache.array_file import Layout
from bench.data.splits import PAD, split
from bench.models.hidden_states import TENSOR, CachedHiddenStates, open_or_build
from bench.models.inputs import ItemFeed
from bench.models.recommender import Recommender, UserEncoder, sequence_loss
from bench.training.config import TrainingConfig
from bench.training.evaluate import rank_targets
from bench.training.loop import Trainer
from methods.base import Group, Shape
from methods.iisan import IISAN

USERS, ITEMS, LAYERS, WIDTH, D = 64, 5000, 7, 768, 64
MODALITIES = ("text", "image")


def median_seconds(run: Callable[[], object], times: int) -> tuple[float, float, float]:
    """Median, fastest and slowest of some runs after one that warms up."""
    run()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken)), min(taken), max(taken)


def show(name: str, ours: tuple[float, float, float], plain: tuple[float, float, float] | None = None) -> None:
    """One line: median (fastest to slowest), and the ratio to the plain implementation."""
    line = f"{name:34} {ours[0]:9.4f} s ({ours[1]:.4f} to {ours[2]:.4f})"
    if plain is not None:
        line += f"   plain {plain[0]:9.4f} s ({plain[1]:.4f} to {plain[2]:.4f})   {plain[0] / ours[0]:7.1f} x"
    print(line, flush=True)


def plain_loss(states: Tensor, vectors: Tensor, items: Tensor, log_pop: Tensor) -> Tensor:
    """Every item position a column, the mask written position by position in Python."""
    users, length = items.shape
    flat = items.flatten()
    columns = vectors[flat.clamp_min(0)]
    logits = states.flatten(0, 1) @ columns.T - log_pop[flat.clamp_min(0)]
    mask = np.zeros((users * (length - 1), len(flat)), dtype=bool)
    lists = items.tolist()
    everything = flat.tolist()
    for user in range(users):
        own = set(lists[user])
        banned = [item in own or item == PAD for item in everything]
        for position in range(length - 1):
            row = user * (length - 1) + position
            mask[row] = banned
            mask[row, user * length + position + 1] = False
    label = torch.arange(users * length).view(users, length)[:, 1:].flatten()
    real = (items[:, :-1] >= 0).flatten()
    return nn.functional.cross_entropy(logits.masked_fill(torch.from_numpy(mask), -1e4)[real], label[real])


def plain_ranks(users: Tensor, items: Tensor, target: np.ndarray, history: np.ndarray) -> np.ndarray:
    """Sorts the whole catalogue user by user."""
    ranks = np.zeros(len(users), dtype=np.int64)
    matrix = items.numpy()
    for row, user in enumerate(users.numpy()):
        scores = matrix @ user
        scores[history[row][history[row] != PAD]] = -np.inf
        ranks[row] = np.flatnonzero(np.argsort(-scores) == target[row])[0] + 1
    return ranks


def make_case(folder: Path) -> tuple[Batch, ItemFeed, np.ndarray, dict[str, Path]]:
    """A batch of full rows of distinct items, the cache in 16 bit, and one file per item and modality in 32 bit."""
    rng = np.random.default_rng(0)
    rows = rng.permutation(ITEMS)[: USERS * 11].reshape(USERS, 11).astype(np.int32)
    arrays, files = {}, {}
    for number, modality in enumerate(MODALITIES):
        generator = torch.Generator().manual_seed(number)

        def compute(wanted: np.ndarray, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(len(wanted), LAYERS, WIDTH, generator=generator)

        cache = open_or_build(folder, Layout(modality, TENSOR, (ITEMS, LAYERS, WIDTH), "float16"), compute)
        print(f"cache, {modality}: {cache.size / ITEMS / 1000:.2f} KB per item")
        arrays[f"hidden_{modality}"] = cache.states
        files[modality] = folder / f"{modality}-files"
        files[modality].mkdir()
        for item in rows.flatten().tolist():
            np.save(files[modality] / f"{item}.npy", np.asarray(cache.states[item], dtype=np.float32))
    return make_batch(rows), ItemFeed(arrays=arrays), rows, files


def per_file(files: dict[str, Path], rows: np.ndarray) -> dict[str, Tensor]:
    """One file per item position and modality, as the paper's released code loads them."""
    return {
        f"hidden_{m}": torch.from_numpy(
            np.stack([np.load(folder / f"{item}.npy", allow_pickle=False) for item in rows.flatten().tolist()])
        )
        for m, folder in files.items()
    }


def training_step(batch: Batch, feed: ItemFeed, rows: np.ndarray, files: dict[str, Path]) -> None:
    """A whole step of cached IISAN against the same network fed and scored the plain way."""
    options = IISAN(cached=True)
    shapes = {m: Shape(WIDTH, 12) for m in MODALITIES}
    item_encoder = options.build(CachedHiddenStates(MODALITIES), shapes, D)
    model = Recommender(item_encoder, UserEncoder(D))
    groups = (*item_encoder.groups, Group("user", 1e-4, tuple(model.user_encoder.parameters())))
    trainer = Trainer(model, groups, TrainingConfig(), "fp32", torch.device("cpu"))
    popularity = log_popularity(split([np.append(r, r[:2]) for r in rows], ITEMS))

    def ours() -> None:
        trainer.step(trainer.transfer(batch, feed.gather(batch.unique), popularity))

    items = torch.arange(rows.size).view(rows.shape)
    plain_popularity = torch.from_numpy(popularity)[torch.from_numpy(rows.flatten().astype(np.int64))]
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)

    def plain() -> None:
        vectors = model.item_encoder(per_file(files, rows))
        states = model.user_states(vectors, items[:, :-1])
        adam.zero_grad()
        plain_loss(states, vectors, items, plain_popularity).backward()
        adam.step()

    show("a whole cached IISAN step", median_seconds(ours, 15), median_seconds(plain, 5))


def start_up(*arguments: str) -> tuple[float, float, float]:
    """Wall time of a command in a fresh interpreter."""
    command = [sys.executable, "run_bench.py", *arguments]
    return median_seconds(lambda: subprocess.run(command, check=True, capture_output=True), 5)


def main() -> None:
    """All comparisons, one line each."""
    with tempfile.TemporaryDirectory() as name:
        batch, feed, rows, files = make_case(Path(name))
        loading = median_seconds(lambda: feed.gather(batch.unique), 20)
        show("loading a cached batch", loading, median_seconds(lambda: per_file(files, rows), 5))

        torch.manual_seed(0)
        vectors, states = torch.randn(rows.size, D), torch.randn(USERS, 10, D)
        items, positions = torch.arange(rows.size).view(rows.shape), torch.arange(USERS * 10)
        flat = torch.zeros(rows.size)
        ours = sequence_loss(states, vectors, items, positions, flat)
        difference = abs(ours.item() - plain_loss(states, vectors, items, flat).item())
        show(
            "loss with masks",
            median_seconds(lambda: sequence_loss(states, vectors, items, positions, flat), 20),
            median_seconds(lambda: plain_loss(states, vectors, items, flat), 5),
        )
        print(f"{'':34} difference of the two losses {difference:.1e}")
        training_step(batch, feed, rows, files)

    users, catalogue = torch.randn(12_076, D), torch.randn(20_314, D)
    rng = np.random.default_rng(0)
    target = rng.integers(20_314, size=12_076).astype(np.int32)
    history = rng.integers(20_314, size=(12_076, 12)).astype(np.int32)
    history[history == target[:, None]] = PAD
    show(
        "ranking 12,076 users x 20,314",
        median_seconds(lambda: rank_targets(users, catalogue, target, history), 3),
        median_seconds(lambda: plain_ranks(users, catalogue, target, history), 1),
    )
    show("start-up: --help", start_up("--help"))
    show("start-up: list", start_up("list"))


if __name__ == "__main__":
    main()
