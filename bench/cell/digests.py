"""Digests of encoders, for the names of cache files."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from bench.config.cells import Cell
from bench.models.backbones import Source
from bench.models.loading.folder_content import fetch_weights, files_digest, weights_digest
from bench.utils.files import digest_of


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
