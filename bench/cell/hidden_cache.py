"""Hidden-state caches of a cell: their names, opening and building."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from bench.config.cells import Cell
from bench.data.cache.array_cache import Progress
from bench.data.cache.array_file import Layout
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.models import hidden_states
from bench.models.backbones import Source
from bench.models.encoders import Encoder
from bench.models.hidden_states import CacheFile, cache_key
from bench.models.inputs import ItemFeed
from bench.models.loading.check_encoder import check_encoder
from bench.models.loading.describe import pooling_of
from bench.models.loading.folder_content import fetch_weights, files_digest, weights_digest
from bench.training.loop import autocast
from bench.utils.files import digest_of

# Modality -> layers whose states are stored.
KeptLayers: TypeAlias = Mapping[str, tuple[int, ...]]
# Items that an encoder is checked and warmed up with before it fills a cache.
CHECKED_ITEMS = 8


def find_caches(
    cell: Cell, sources: Mapping[str, Source], catalogue: Catalogue, feed: ItemFeed, kept: KeptLayers
) -> dict[str, CacheFile] | None:
    """Open the caches of all modalities; None if one is absent or damaged.

    Args:
        feed: tokens and pixels of the items.
    """
    caches = {}
    for modality, layers in kept.items():
        found = hidden_states.find(_folder(), _layout(cell, sources[modality], catalogue, feed, layers))
        if found is None:
            return None
        caches[modality] = found
    return caches


def open_or_build_cache(
    cell: Cell,
    source: Source,
    catalogue: Catalogue,
    feed: ItemFeed,
    kept: tuple[int, ...],
    load: Callable[[], Encoder],
    device: torch.device,
    progress: Progress | None = None,
) -> CacheFile:
    """Open the cache of a modality, or build it in the precision of the cell, as live states are computed.

    The encoder is loaded and warmed up before the clock of the first block starts.

    Args:
        feed: tokens and pixels of the items.
        kept: layers whose states are stored.
        load: loads the encoder; not called if the cache is there.
        device: device that computes the states.
        progress: called with the number of items done and of all items.

    Raises:
        UserError: the cache cannot be built or written.
    """
    layout = _layout(cell, source, catalogue, feed, kept)
    found = hidden_states.find(_folder(), layout)
    if found is not None:
        return found
    encoder = load().to(device).eval()

    def inputs(rows: NDArray[np.int64]) -> dict[str, Tensor]:
        return {key: value.to(device) for key, value in feed.gather(rows).items()}

    def compute(rows: NDArray[np.int64]) -> Tensor:
        with torch.no_grad(), autocast(cell.precision, device):
            return encoder.hidden_states(inputs(rows), kept)

    few = np.arange(min(CHECKED_ITEMS, len(catalogue.item_ids)))
    check_encoder(encoder, inputs(few))
    compute(few).cpu()
    return hidden_states.open_or_build(_folder(), layout, compute, progress)


def _folder() -> Path:
    return cache_dir() / "hidden"


def _layout(cell: Cell, source: Source, catalogue: Catalogue, feed: ItemFeed, kept: tuple[int, ...]) -> Layout:
    """Name and shape of a cache: all that its states are computed from is in the key."""
    # Pictures are in the digest of the catalogue, as they are before the framing that the preprocessing names.
    inputs_digest = feed.tokens.digest() if source.modality == "text" and feed.tokens is not None else ""
    arithmetic = cell.precision, cell.training.attention, cell.training.cudnn_attention
    key = cache_key(
        encoder_digest(source, cell),
        digest_of(source.preprocessing.digest(), pooling_of(source).pooling, *arithmetic, inputs_digest),
        kept,
        cell.training.cache_dtype,
        catalogue.digest,
    )
    facts = {
        "model": str(cell.shown_model(source.modality)),
        "modality": source.modality,
        "layers": " ".join(map(str, kept)),
    }
    shape = (len(catalogue.item_ids), len(kept), source.width)
    return Layout(key, hidden_states.TENSOR, shape, cell.training.cache_dtype, facts)


def encoder_digest(source: Source, cell: Cell) -> str:
    """Digest of an encoder's weights and arithmetic; with quantisation its kind and the cell's precision count too."""
    digest = source_digest(source, cell.seed)
    kind = cell.backbones.quantise
    return digest if kind is None else f"{digest} {kind} {cell.precision}"


def source_digest(source: Source, seed: int) -> str:
    """Digest of everything that an encoder is made of, without loading it, wherever its folder lies.

    These are its configuration, the content of its weights (the seed if they are random) and of all other files, and
    the libraries that compute with them.
    """
    folder = Path(source.location)
    files = files_digest(folder) if folder.is_dir() else ""
    if source.random:
        weights = f"random {seed}"
    else:
        fetch_weights(source.name, folder)
        weights = weights_digest(folder)
    versions = torch.__version__, transformers.__version__
    return digest_of(source.config.to_json_string(), files, weights, *versions)
