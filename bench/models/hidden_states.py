"""Pooled hidden states of frozen backbones: computed live in every step, or read from a cache on disk.

:class:`LiveHiddenStates` and :class:`CachedHiddenStates` are interchangeable sources of a method's input;
:func:`open_or_build` makes the cache files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data.cache import array_cache
from bench.data.cache.array_file import Layout, Rows
from bench.models.encoders import Encoder, Inputs
from bench.utils.errors import UserError
from bench.utils.files import digest_of

# Key of cached hidden states among the item inputs; takes the modality.
HIDDEN_KEY = "hidden_{}"
# Name of the states within their cache file.
TENSOR = "states"


class LiveHiddenStates(nn.Module):
    """Hidden states from frozen encoders in eval mode and without a gradient graph, equal to the cached ones."""

    def __init__(self, encoders: Mapping[str, Encoder], kept: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.kept = dict(kept)
        self.encoders.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LiveHiddenStates:
        """Set train or eval mode; the encoders stay in eval mode, so that their dropout is off."""
        super().train(mode)
        self.encoders.eval()
        return self

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Hidden states by modality, each (n, kept layers, width)."""
        return {m: encoder.hidden_states(inputs, self.kept[m]) for m, encoder in self.encoders.items()}  # type: ignore[operator]


class CachedHiddenStates(nn.Module):
    """Hidden states that ``ItemFeed`` has read from the cache; in 32 bit whatever the cache's precision."""

    def __init__(self, modalities: tuple[str, ...]):
        super().__init__()
        self.modalities = modalities

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Hidden states by modality, each (n, kept layers, width) in 32 bit."""
        return {m: inputs[HIDDEN_KEY.format(m)].float() for m in self.modalities}


@dataclass(frozen=True)
class CacheFile:
    """Cache file with one backbone's hidden states of all items.

    Attributes:
        states: memory-mapped array (items, kept layers, width), float16 or float32.
        seconds: time that building the file took, in this cell or an earlier one.
        reused: True if the file existed before this cell.
        size: bytes on disk.
        warning: why an existing file was damaged and had to be built again; "" if it was not.
    """

    states: Rows | NDArray[np.generic]
    seconds: float
    reused: bool
    size: int
    warning: str = ""


def cache_key(weights: str, preprocessing: str, kept: tuple[int, ...], dtype: str, items: str) -> str:
    """Name of a cache file: a digest of weights, preprocessing, kept layers, dtype and items, 32 hexadecimal digits."""
    return digest_of("hidden-states-2", weights, preprocessing, repr(kept), dtype, items)[:32]


def find(folder: Path, layout: Layout) -> CacheFile | None:
    """Open the cache file of a layout; None if it is absent or damaged."""
    served = array_cache.find(folder, layout)
    return None if served is None else _cache_file(served)


def open_or_build(
    folder: Path,
    layout: Layout,
    compute: Callable[[NDArray[np.int64]], Tensor],
    progress: array_cache.Progress | None = None,
) -> CacheFile:
    """Open the cache file of a layout, or build it in blocks of items.

    Args:
        folder: folder of the cache files.
        layout: name, shape (items, kept layers, width) and type of the states, float16 or float32.
        compute: item indices -> states (n, kept layers, width) in eval mode.
        progress: called with the number of items done and of all items.

    Raises:
        UserError: a state exceeds the range of 16 bit, the disk is full, or the cache folder is not writable.
    """

    def block(rows: NDArray[np.int64]) -> NDArray[np.generic]:
        states = compute(rows).float().cpu()
        if layout.dtype == "float16":
            if states.abs().max() > torch.finfo(torch.float16).max:
                raise UserError('hidden-state cache: a state does not fit into 16 bit; use cache_dtype = "float32"')
            states = states.half()
        return states.numpy()

    return _cache_file(array_cache.open_or_build(folder, layout, block, progress))


def _cache_file(served: array_cache.Served) -> CacheFile:
    return CacheFile(served.rows, served.seconds, served.reused, served.size, served.warning)
