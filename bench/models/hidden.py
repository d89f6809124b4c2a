"""Hidden states of frozen backbones: computed live, or served from a cache on disk."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.store import digest_of
from bench.errors import UserError
from bench.models.encoders import Encoder, Inputs

# Item-input key of cached hidden states, by modality.
HIDDEN_KEY = "hidden_{}"
BUILD_BATCH = 256


class LiveHiddenStates(nn.Module):
    """Runs frozen encoders in eval mode and without a gradient graph, so a live run equals a cached one."""

    def __init__(self, encoders: Mapping[str, Encoder], kept: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.kept = dict(kept)
        self.encoders.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LiveHiddenStates:
        """Follows the recommender's mode, the encoders excepted: dropout stays off in them."""
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """modality -> (n, kept layers, width)."""
        return {m: encoder.hidden_states(inputs, self.kept[m]) for m, encoder in self.encoders.items()}  # type: ignore[operator]


class CachedHiddenStates(nn.Module):
    """Takes the states that the item feed gathered from the cache; 16 bit on the way, 32 bit here."""

    def __init__(self, modalities: tuple[str, ...]):
        super().__init__()
        self.modalities = modalities

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """modality -> (n, kept layers, width) in 32 bit."""
        return {m: inputs[HIDDEN_KEY.format(m)].float() for m in self.modalities}


@dataclass(frozen=True)
class CacheFile:
    """One backbone's states of all items.

    Attributes:
        states: memory-mapped, (items, kept layers, width), float16 or float32.
        seconds: what building took, whenever that was.
        reused: an earlier cell had built it.
        size: bytes on disk.
    """

    states: NDArray[np.generic]
    seconds: float
    reused: bool
    size: int


def cache_key(weights: str, preprocessing: str, kept: tuple[int, ...], dtype: str, items: str) -> str:
    """Content address: a change of weights, preprocessing, layers, precision or items gives another file."""
    return digest_of("hidden-states-1", weights, preprocessing, repr(kept), dtype, items)[:32]


def open_or_build(
    folder: Path,
    key: str,
    shape: tuple[int, int, int],
    dtype: str,
    compute: Callable[[NDArray[np.int64]], Tensor],
) -> CacheFile:
    """Opens the cache file of ``key``, or builds it by streaming over the items.

    Args:
        folder: where cache files live.
        shape: (items, kept layers, width).
        dtype: "float16" or "float32".
        compute: item indices -> states (n, kept layers, width) in eval mode.

    Raises:
        UserError: when a state does not fit into 16 bit, or the disk is full.
    """
    path, facts = folder / f"{key}.npy", folder / f"{key}.json"
    if path.is_file() and facts.is_file():
        opened = _open(path, facts, shape, dtype)
        if opened is not None:
            return opened
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    partial = folder / f".{key}.{os.getpid()}.npy"
    try:
        _stream(partial, shape, dtype, compute)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"hidden-state cache {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    seconds = time.perf_counter() - started
    record = {"seconds": seconds, "bytes": path.stat().st_size, "shape": shape, "dtype": dtype}
    facts_partial = folder / f".{key}.{os.getpid()}.json"
    facts_partial.write_text(json.dumps(record), encoding="utf-8")
    os.replace(facts_partial, facts)
    return CacheFile(np.load(path, mmap_mode="r", allow_pickle=False), seconds, False, path.stat().st_size)


def _open(path: Path, facts: Path, shape: tuple[int, int, int], dtype: str) -> CacheFile | None:
    """The file as it lies there, or None when it is not what its facts say (cut short, foreign): then it is rebuilt."""
    try:
        record = json.loads(facts.read_text(encoding="utf-8"))
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TokenError):
        return None  # numpy reads a damaged header as Python text, hence the third one
    if states.shape != shape or states.dtype != np.dtype(dtype) or record.get("bytes") != path.stat().st_size:
        return None
    return CacheFile(states, float(record["seconds"]), True, path.stat().st_size)


def _stream(
    path: Path, shape: tuple[int, int, int], dtype: str, compute: Callable[[NDArray[np.int64]], Tensor]
) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    for start in range(0, shape[0], BUILD_BATCH):
        rows = np.arange(start, min(start + BUILD_BATCH, shape[0]))
        block = compute(rows).float().cpu().numpy()
        if dtype == "float16" and np.abs(block).max() > np.finfo(np.float16).max:
            raise UserError('hidden-state cache: a state does not fit into 16 bit; use cache_dtype = "float32"')
        out[rows] = block.astype(dtype)
    out.flush()
