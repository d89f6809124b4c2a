"""What a matrix will write and read again: a plain estimate from its configuration, without loading anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.matrix import Matrix, MethodConfig, build_method
from bench.data.config import DatasetConfig
from bench.data.datasets import files_config
from bench.data.kinds import KINDS
from bench.data.readers.columns import read_chunks
from bench.data.readers.file_layouts import find_layout
from bench.models.backbones import Source, locate
from bench.models.config import CONFIGURATIONS, PRETRAINED, Modality
from bench.utils.errors import UserError
from methods.base import HiddenMethod, Shape

BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Need:
    """Bytes that a matrix adds to the cache folder at most; what an earlier run left there is not taken off.

    Attributes:
        hidden: hidden states: items × kept layers × width × bytes of a number, over all caches of the matrix.
        pictures: items × height × width × 3, over all sizes.
        unknown: why something is missing from the figures; empty if nothing is.
    """

    hidden: int
    pictures: int
    unknown: tuple[str, ...]

    @property
    def total(self) -> int:
        """All of it."""
        return self.hidden + self.pictures


@dataclass(frozen=True)
class HubModel:
    """An encoder named by its hub id.

    Attributes:
        folder: of its configuration in the local hub cache; None if that is not there.
        complete: everything that a run reads is there.
    """

    name: str
    folder: Path | None
    complete: bool


def models_of(matrix: Matrix) -> dict[tuple[Modality, str, str, str | None], None]:
    """Modality, name, weights and quantisation of every encoder that the matrix uses, each once, in order."""
    used: dict[tuple[Modality, str, str, str | None], None] = {}
    for pair in matrix.backbones:
        for modality in ("text", "image"):
            if any(modality in combined.split("+") for combined in matrix.modality):
                used[modality, getattr(pair, modality), pair.weights, pair.quantise] = None
    return used


def hub_models(matrix: Matrix) -> list[HubModel]:
    """The encoders that are neither built in nor a folder, looked up in the local hub cache alone."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    found: dict[str, HubModel] = {}
    for _, name, weights, _ in models_of(matrix):
        if name in CONFIGURATIONS or name in PRETRAINED or Path(name).exists():
            continue
        try:
            config = try_to_load_from_cache(name, "config.json")
        except HFValidationError:
            config = None
        folder = Path(config).parent if isinstance(config, str) else None
        complete = folder is not None and (weights == "random" or any(folder.glob("*.safetensors")))
        found[name] = HubModel(name, folder, complete and (name not in found or found[name].complete))
    return list(found.values())


def need_of(matrix: Matrix, hub: list[HubModel]) -> Need:
    """The estimate.

    Args:
        hub: as :func:`hub_models` gives it, so that nothing is fetched here.
    """
    folders = {model.name: model.folder for model in hub}
    doubts: dict[str, None] = {}
    items = _items(matrix, doubts)
    hidden: dict[Any, int] = {}
    pictures: dict[int, int] = {}
    for modality, name, weights, quantise in models_of(matrix):
        source = _source(modality, name, weights, folders, doubts)
        if source is None:
            continue
        size = source.preprocessing.image_size
        if size is not None:
            pictures[size] = items * size * size * 3
        # Drawn weights depend on the seed, and so do their states.
        seeds = matrix.seeds if source.random else (0,)
        for method in matrix.methods:
            kept = _kept(method, source)
            for seed in seeds if kept else ():
                size_of_one = len(kept) * source.width * BYTES[matrix.training.cache_dtype]
                hidden[modality, name, weights, quantise, kept, seed] = items * size_of_one
    return Need(sum(hidden.values()), sum(pictures.values()), tuple(doubts))


def _kept(method: MethodConfig, source: Source) -> tuple[int, ...]:
    """The layers that a method needs in a cache; none if it reads no cache."""
    built = build_method(method, "matrix")
    if not isinstance(built, HiddenMethod) or not built.cached:
        return ()
    return built.kept(Shape(source.width, source.depth, source.widths))


def _source(
    modality: Modality, name: str, weights: str, folders: dict[str, Path | None], doubts: dict[str, None]
) -> Source | None:
    try:
        if name not in folders:
            return locate(name, modality, weights)
        folder = folders[name]
        if folder is not None:
            return locate(str(folder), modality, weights)
        doubts[f"the width of {name}, which is not in the hub cache"] = None
    except UserError as error:
        doubts[str(error)] = None
    return None


def _items(matrix: Matrix, doubts: dict[str, None]) -> int:
    """Size of the catalogue at most."""
    config = matrix.dataset
    if not KINDS[config.name].in_files:
        return config.items
    try:
        if not KINDS[config.name].has_columns:
            return _amazon_items(config, doubts)
        settings = files_config(config)
        layout = find_layout(settings.name, settings.folder, settings.columns)
        return sum(len(chunk.frame) for chunk in read_chunks(layout.items))
    except OSError as error:
        doubts[f"the items of {config.data_dir}: {error.strerror}"] = None
    except UserError as error:
        doubts[f"the items: {error}"] = None
    return 0


def _amazon_items(config: DatasetConfig, doubts: dict[str, None]) -> int:
    files = sorted(Path(config.data_dir or "").glob("*items.tsv"))
    if not files:
        doubts[f"the items: {config.data_dir} has no *items.tsv"] = None
    return sum(file.read_bytes().count(b"\n") for file in files[:1])
