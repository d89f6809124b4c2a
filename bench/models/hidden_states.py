"""Hidden states of frozen backbones: computed live, or gathered from the cache on disk."""

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

# Item-input key of cached hidden states, by modality.
HIDDEN_KEY = "hidden_{}"


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
        states: memory-mapped, (items, kept layers, width), float16 or float32; gathered by index.
        seconds: what building took, whenever that was.
        reused: an earlier cell had built it.
        size: bytes on disk.
        warning: what was wrong with the file that was there, and had to be built again; empty if nothing was.
    """

    states: Rows | NDArray[np.generic]
    seconds: float
    reused: bool
    size: int
    warning: str = ""


def cache_key(weights: str, preprocessing: str, kept: tuple[int, ...], dtype: str, items: str) -> str:
    """Content address: a change of weights, preprocessing, layers, precision or items gives another file."""
    return digest_of("hidden-states-1", weights, preprocessing, repr(kept), dtype, items)[:32]


def open_or_build(
    folder: Path,
    key: str,
    shape: tuple[int, int, int],
    dtype: str,
    compute: Callable[[NDArray[np.int64]], Tensor],
    facts: Mapping[str, str] | None = None,
    progress: array_cache.Progress | None = None,
) -> CacheFile:
    """Opens the cache file of ``key``, or builds it by streaming over the items.

    Args:
        folder: where cache files live.
        shape: (items, kept layers, width).
        dtype: "float16" or "float32".
        compute: item indices -> states (n, kept layers, width) in eval mode.
        facts: what ``cache list`` shows of it: model and layers.
        progress: told the items that are done, and all.

    Raises:
        UserError: when a state does not fit into 16 bit, the disk is full, or the cache folder is not to be written.
    """

    def block(rows: NDArray[np.int64]) -> NDArray[np.generic]:
        states = compute(rows).float().cpu()
        if dtype == "float16":
            if states.abs().max() > torch.finfo(torch.float16).max:
                raise UserError('hidden-state cache: a state does not fit into 16 bit; use cache_dtype = "float32"')
            states = states.half()
        return states.numpy()

    served = array_cache.open_or_build(folder, Layout(key, "states", shape, dtype, facts or {}), block, progress)
    return CacheFile(served.rows, served.seconds, served.reused, served.size, served.warning)
