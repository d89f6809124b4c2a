"""Estimates the disk space that a matrix needs in the cache, from its configuration and without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.matrix import Matrix, MethodConfig, build_method
from bench.data import datasets
from bench.data.config import DatasetConfig
from bench.data.kinds import KINDS
from bench.data.readers.file_layouts import find_layout
from bench.data.readers.tables.columns import read_chunks
from bench.models.backbones import Source, locate
from bench.models.config import CONFIGURATIONS, PRETRAINED, Modality
from bench.utils.errors import UserError
from methods.base import HiddenMethod, Shape

BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class DiskEstimate:
    """Bytes that a matrix adds to the cache folder at most; files of earlier runs are not subtracted.

    Attributes:
        hidden: hidden states: items × kept layers × width × bytes of a number, over all caches of the matrix, with the
            new items that are probed for attributes.
        pictures: resized images: items × height × width × 3, over all sizes.
        unknown: parts that are missing from the estimate; empty if it is complete.
    """

    hidden: int
    pictures: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """Bytes of hidden states and pictures."""
        return self.hidden + self.pictures


@dataclass(frozen=True)
class HubModel:
    """An encoder that is named by its hub id.

    Attributes:
        folder: folder of its configuration in the local hub cache; None if it is not cached.
        complete: True if all files that a run reads are in the local hub cache.
    """

    name: str
    folder: Path | None
    complete: bool


def encoders_of(matrix: Matrix) -> dict[tuple[Modality, str, str, str | None], None]:
    """Modality, name, weights and quantisation of every encoder that the matrix uses, each once, in order."""
    used: dict[tuple[Modality, str, str, str | None], None] = {}
    for pair in matrix.backbones:
        for modality in ("text", "image"):
            if any(modality in combined.split("+") for combined in matrix.modality):
                used[modality, getattr(pair, modality), pair.weights, pair.quantise] = None
    return used


def hub_models(matrix: Matrix) -> list[HubModel]:
    """Encoders that are neither built in nor a folder, as found in the local hub cache; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    models: dict[str, HubModel] = {}
    for _, name, weights, _ in encoders_of(matrix):
        if name in CONFIGURATIONS or name in PRETRAINED or Path(name).exists():
            continue
        try:
            config = try_to_load_from_cache(name, "config.json")
        except HFValidationError:
            config = None
        folder = Path(config).parent if isinstance(config, str) else None
        complete = folder is not None and (weights == "random" or any(folder.glob("*.safetensors")))
        models[name] = HubModel(name, folder, complete and (name not in models or models[name].complete))
    return list(models.values())


def estimate_disk(matrix: Matrix, hub: list[HubModel]) -> DiskEstimate:
    """Estimates the bytes that a matrix adds to the cache folder.

    Args:
        hub: encoders from the hub (:func:`hub_models`); those that are not cached are missing from the estimate.
    """
    folders = {model.name: model.folder for model in hub}
    unknown: dict[str, None] = {}
    items = _items(matrix, unknown)
    hidden: dict[Any, int] = {}
    pictures: dict[int, int] = {}
    for modality, name, weights, quantise in encoders_of(matrix):
        source = _source(modality, name, weights, folders, unknown)
        if source is None:
            continue
        size = source.preprocessing.image_size
        if size is not None:
            pictures[size] = items * size * size * 3
        # Random weights depend on the seed, and so do their hidden states.
        seeds = matrix.seeds if source.random else (0,)
        probed = 0 if weights == "random" or KINDS[matrix.dataset.name].in_files else datasets.NEW_ITEMS
        for method in matrix.methods:
            kept = _cached_layers(method, source)
            for seed in seeds if kept else ():
                item_bytes = len(kept) * source.width * BYTES[matrix.training.cache_dtype]
                hidden[modality, name, weights, quantise, kept, seed] = (items + probed) * item_bytes
    return DiskEstimate(sum(hidden.values()), sum(pictures.values()), tuple(unknown))


def _cached_layers(method: MethodConfig, source: Source) -> tuple[int, ...]:
    """Layers whose hidden states a method reads from the cache; none if it does not use the cache."""
    built = build_method(method, "matrix")
    if not isinstance(built, HiddenMethod) or not built.cached:
        return ()
    return built.kept(Shape(source.width, source.depth, source.widths))


def _source(
    modality: Modality, name: str, weights: str, folders: dict[str, Path | None], unknown: dict[str, None]
) -> Source | None:
    """Shape and files of an encoder; if they are not available, None and a line in ``unknown``."""
    try:
        if name not in folders:
            return locate(name, modality, weights)
        folder = folders[name]
        if folder is not None:
            return locate(str(folder), modality, weights)
        unknown[f"the width of {name}, which is not in the hub cache"] = None
    except UserError as error:
        unknown[str(error)] = None
    return None


def _items(matrix: Matrix, unknown: dict[str, None]) -> int:
    """Number of items before any is left out; if they cannot be counted, 0 and a line in ``unknown``."""
    config = matrix.dataset
    if not KINDS[config.name].in_files:
        return config.items
    try:
        if not KINDS[config.name].has_columns:
            return _amazon_items(config, unknown)
        settings = datasets.files_config(config)
        layout = find_layout(settings.name, settings.folder, settings.columns)
        return sum(len(chunk.frame) for chunk in read_chunks(layout.items))
    except OSError as error:
        unknown[f"the items of {config.data_dir}: {error.strerror}"] = None
    except UserError as error:
        unknown[f"the items: {error}"] = None
    return 0


def _amazon_items(config: DatasetConfig, unknown: dict[str, None]) -> int:
    files = sorted(Path(config.data_dir or "").glob("*items.tsv"))
    if not files:
        unknown[f"the items: {config.data_dir} has no *items.tsv"] = None
    return sum(file.read_bytes().count(b"\n") for file in files[:1])
