"""Puts a cell together: catalogue, backbones, item feed, method, user encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.data import datasets
from bench.data.batches import steps_per_epoch
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.data.splits import Splits
from bench.models.backbones import Source, locate
from bench.models.encoders import OUTPUT, Encoder, checkpoint_gradients
from bench.models.hidden_states import (
    HIDDEN_KEY,
    CachedHiddenStates,
    CacheFile,
    LiveHiddenStates,
    cache_key,
    open_or_build,
)
from bench.models.inputs import ItemFeed, pixels, tokenise
from bench.models.quantisation import check_installed, quantise
from bench.models.recommender import Recommender, UserEncoder
from bench.training.budget import Budget
from bench.utils.errors import UserError
from methods.base import EncoderMethod, Group, HiddenMethod, ItemEncoder, Method, Shape

UNKNOWN_LIMIT = 0.5
# Told of a cache that is being built: modality, items that are done, all items.
CacheProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Data:
    """Everything that does not depend on the method."""

    catalogue: Catalogue
    splits: Splits
    sources: Mapping[str, Source]

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return len(self.catalogue.item_ids)


@dataclass(frozen=True)
class Assembly:
    """A cell ready to train.

    Attributes:
        encoders: the backbones that run in every step; empty when the cache serves their states.
        caches: modality -> cache file.
        unknown_share: of the titles' tokens; None without text.
    """

    data: Data
    model: Recommender
    feed: ItemFeed
    groups: tuple[Group, ...]
    adapted: dict[str, int]
    encoders: tuple[Encoder, ...]
    caches: Mapping[str, CacheFile]
    unknown_share: float | None


@dataclass(frozen=True)
class Built:
    """A model, the learning-rate groups of what trains in it, and the number of adapted modules by modality."""

    model: Recommender
    groups: tuple[Group, ...]
    adapted: dict[str, int]


def locate_all(cell: Cell, weights: str) -> dict[str, Source]:
    """Modality -> source of a cell's encoders.

    Raises:
        UserError: for a model that cannot be had, or what quantises it.
    """
    if cell.backbones.quantise is not None:
        check_installed(cell.backbones.quantise)
    trusted = cell.backbones.trust_remote_code
    return {
        m: locate(str(cell.model(m)), m, weights, cell.pooling(m), trust_remote_code=trusted)  # type: ignore[arg-type]
        for m in cell.modalities
    }


def load_data(cell: Cell) -> Data:
    """Sources, catalogue and splits of a cell."""
    sources = locate_all(cell, cell.backbones.weights)
    size = sources["image"].preprocessing.image_size if "image" in sources else None
    catalogue = datasets.load(cell.dataset, size)
    if size is not None and catalogue.images is None:
        raise UserError(f"dataset {catalogue.name} has no images: use --modality text, or give --image-dir")
    return Data(catalogue, datasets.split_catalogue(catalogue), sources)


def raw_feed(data: Data, cell: Cell) -> tuple[ItemFeed, float | None]:
    """Tokens and pixels, and the share of unknown tokens.

    Raises:
        UserError: when the tokenizer knows less than half of the titles' words.
    """
    tokens, arrays = None, {}
    if "text" in data.sources:
        tokens = tokenise(data.catalogue, data.sources["text"], cell.dataset.max_tokens)
        if tokens.unknown_share > UNKNOWN_LIMIT and not cell.dataset.force_tokenizer:
            raise UserError(
                f"--text-model {data.sources['text'].name}: it does not know {tokens.unknown_share:.0%} of the "
                f"words of dataset {data.catalogue.name}; choose another, or set force_tokenizer = true in [dataset]"
            )
    if "image" in data.sources:
        size = data.sources["image"].preprocessing.image_size
        assert size is not None
        arrays["pixels"] = pixels(data.catalogue, size)
    return ItemFeed(tokens, arrays), None if tokens is None else tokens.unknown_share


def load_encoders(sources: Mapping[str, Source], cell: Cell, device: torch.device | None = None) -> dict[str, Encoder]:
    """The backbones; random ones are drawn from the cell's seed, modality by modality.

    Args:
        device: where maps that are quantised go; the rest stays where it was loaded.
    """
    encoders = {}
    for index, (modality, source) in enumerate(sources.items()):
        torch.manual_seed(1000 * cell.seed + index)
        encoders[modality] = Encoder.from_source(source)
        encoders[modality].use_attention(cell.training.attention)
        if cell.backbones.quantise is not None:
            quantise(encoders[modality].model, cell.backbones.quantise, cell.precision, device)
    return encoders


def reads_cache(method: Method) -> bool:
    """Whether the cache serves what the method reads, so that its cells never load the backbones."""
    return isinstance(method, HiddenMethod) and method.cached


def kept_layers(method: HiddenMethod, sources: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """The layers whose states the method reads, by modality."""
    return method.kept_of(shapes_of(sources))


def shapes_of(sources: Mapping[str, Source]) -> dict[str, Shape]:
    """Modality -> sizes of its encoder."""
    return {m: Shape(s.width, s.depth, s.widths) for m, s in sources.items()}


def check_network(cell: Cell, sources: Mapping[str, Source]) -> None:
    """Builds what reads hidden states alone without memory, so that options which do not fit the backbones show early.

    Raises:
        UserError: what does not fit, by method and modality.
    """
    where = f"method {cell.method.name}"
    method = build_method(cell.method, "matrix")
    if not isinstance(method, HiddenMethod):
        return
    try:
        for modality, layers in kept_layers(method, sources).items():
            depth = sources[modality].depth
            beyond = [layer for layer in layers if layer != OUTPUT and not 0 <= layer <= depth]
            if beyond or not layers:
                raise UserError(f"the {modality} encoder has layers 0 to {depth}, kept gave {list(layers)}")
        with torch.device("meta"):
            method.build(nn.Identity(), shapes_of(sources), cell.training.width)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_budget(cell: Cell, splits: Splits) -> None:
    """Whether the method can be trained with the cell's budget.

    Raises:
        UserError: it cannot, naming the method.
    """
    steps = Budget.of(cell.budget, steps_per_epoch(len(splits.train), cell.budget.batch_size)).limit_steps
    if why := build_method(cell.method, "matrix").check_budget(steps):
        raise UserError(f"method {cell.method.name}: {why}")


def build_model(cell: Cell, method: Method, sources: Mapping[str, Source], encoders: Mapping[str, Encoder]) -> Built:
    """The model and what trains in it, on the device where encoders and new tensors are.

    Args:
        encoders: by modality; not looked at when the cache serves their states.
    """
    width = cell.training.width
    torch.manual_seed(cell.seed)
    items: ItemEncoder
    plain = [encoder.model for encoder in encoders.values()]
    if isinstance(method, HiddenMethod):
        shapes = shapes_of(sources)
        source: nn.Module
        if method.cached:
            source = CachedHiddenStates(cell.modalities)
        else:
            source = LiveHiddenStates(encoders, kept_layers(method, sources))
        items = method.build(source, shapes, width)
    else:
        assert isinstance(method, EncoderMethod)
        items = method.build(encoders, width)
    if cell.training.gradient_checkpointing:
        # Not before: peft would have the embeddings' output ask for a gradient, which only the old way needs.
        for model in plain:
            checkpoint_gradients(model)
    # A seed of its own: every method starts from the same user encoder, whatever its own parameters drew.
    torch.manual_seed(cell.seed + 1)
    users = UserEncoder(width, dropout=cell.training.dropout)
    groups = (*items.groups, Group("user", method.lr_head, tuple(users.parameters())))
    return Built(Recommender(items, users, cell.training.logit_scale), groups, items.adapted)


def assemble(cell: Cell, device: torch.device, progress: CacheProgress | None = None) -> Assembly:
    """Loads, builds and moves to the device.

    Args:
        progress: told of a hidden-state cache that is being built.

    Raises:
        UserError: for anything wrong with data, models or options.
    """
    data = load_data(cell)
    check_budget(cell, data.splits)
    method = build_method(cell.method, "matrix")
    feed, unknown = raw_feed(data, cell)
    encoders: dict[str, Encoder] = {}
    caches: dict[str, CacheFile] = {}
    if reads_cache(method):
        caches = build_caches(cell, data, feed, kept_layers(method, data.sources), device, progress)
        feed = ItemFeed(arrays={HIDDEN_KEY.format(m): cache.states for m, cache in caches.items()})
    else:
        encoders = load_encoders(data.sources, cell, device)
    built = build_model(cell, method, data.sources, encoders)
    model = built.model.to(device)
    return Assembly(data, model, feed, built.groups, built.adapted, tuple(encoders.values()), caches, unknown)


def build_caches(
    cell: Cell,
    data: Data,
    feed: ItemFeed,
    kept: Mapping[str, tuple[int, ...]],
    device: torch.device,
    progress: CacheProgress | None = None,
) -> dict[str, CacheFile]:
    """Opens or builds the hidden-state cache of every modality; a backbone is loaded only to build one."""
    caches = {}
    for modality, source in data.sources.items():
        shape = (data.n_items, len(kept[modality]), source.width)
        key = cache_key(
            encoder_digest(source, cell),
            f"{source.preprocessing.digest()} {cell.dataset.max_tokens} {source.pooling}",
            kept[modality],
            cell.training.cache_dtype,
            data.catalogue.digest,
        )
        loaded: list[Encoder] = []

        def compute(rows: NDArray[np.int64], modality: str = modality, loaded: list[Encoder] = loaded) -> Tensor:
            if not loaded:
                loaded.append(load_encoders(data.sources, cell, device)[modality].to(device).eval())
            inputs = {k: v.to(device) for k, v in feed.gather(rows).items()}
            with torch.no_grad():
                return loaded[0].hidden_states(inputs, kept[modality])

        facts = {
            "model": str(cell.shown_model(modality)),
            "modality": modality,
            "layers": " ".join(map(str, kept[modality])),
        }
        told = None if progress is None else partial(progress, modality)
        caches[modality] = open_or_build(
            cache_dir() / "hidden", key, shape, cell.training.cache_dtype, compute, facts, told
        )
    return caches


def encoder_digest(source: Source, cell: Cell) -> str:
    """Names what a cell's encoder computes; a quantised one computes in the cell's precision."""
    digest = source_digest(source, cell.seed)
    kind = cell.backbones.quantise
    return digest if kind is None else f"{digest} {kind} {cell.precision}"


def source_digest(source: Source, seed: int) -> str:
    """Names an encoder's weights without loading them: digest of its files, or of configuration and seed if random."""
    digest = hashlib.sha256(source.config.to_json_string().encode())
    if source.random:
        digest.update(f"random {seed} torch {torch.__version__}".encode())
        return digest.hexdigest()
    for path in weight_files(source.location):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def weight_files(location: str) -> list[Path]:
    """The safetensors files of a folder, or of a hub id in the local hub cache (fetched if allowed)."""
    folder = Path(location)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(location, allow_patterns=["*.safetensors", "*.json"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"model {location}: no .safetensors weights")
    return files
