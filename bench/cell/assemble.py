"""Assembly of a cell: catalogue, backbones, item feed, method and user encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from bench.cell.hidden_cache import KeptLayers, find_caches, open_or_build_cache
from bench.cell.titles import check_tokens, tokenise_titles
from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.data import datasets
from bench.data.batches import steps_per_epoch
from bench.data.catalogue import Catalogue
from bench.data.splits import Splits
from bench.models.backbones import Source, load_model, locate
from bench.models.encoders import OUTPUT, Encoder, checkpoint_gradients
from bench.models.hidden_states import HIDDEN_KEY, CachedHiddenStates, CacheFile, LiveHiddenStates
from bench.models.inputs import ItemFeed, pixels
from bench.models.quantisation import check_installed, quantise
from bench.models.recommender import Recommender, UserEncoder
from bench.training.budget import Budget
from bench.utils import fresh_process
from bench.utils.errors import UserError
from methods.base import EncoderMethod, Group, HiddenMethod, ItemEncoder, Method, Shape

# Called while a cache is built: modality, number of items done, number of all items.
CacheProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Data:
    """Data of a cell that do not depend on the method.

    Attributes:
        catalogue: items with titles and images.
        splits: user sequences with training, validation and test targets.
        sources: modality -> encoder before its weights are loaded.
    """

    catalogue: Catalogue
    splits: Splits
    sources: Mapping[str, Source]

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.catalogue.item_ids)


@dataclass(frozen=True)
class Assembly:
    """Model and data of a cell that is ready to train.

    Attributes:
        data: catalogue, splits and encoder sources.
        model: recommender, on the device of the cell.
        feed: gathers the model's inputs for a list of items.
        groups: trained parameters and their learning rates, with those of the user encoder.
        adapted: modality -> number of adapted modules.
        encoders: backbones that run in every step; empty if the method reads cached hidden states.
        caches: modality -> cache file; empty if the method reads no cache.
        unknown_share: share of the titles' tokens that the tokenizer does not know, 0 to 1; None without text.
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
class BuiltModel:
    """Model without data.

    Attributes:
        model: recommender.
        groups: trained parameters and their learning rates, with those of the user encoder.
        adapted: modality -> number of adapted modules.
    """

    model: Recommender
    groups: tuple[Group, ...]
    adapted: dict[str, int]


def locate_encoders(cell: Cell, weights: str) -> dict[str, Source]:
    """Resolve the encoders of a cell: modality -> source.

    Args:
        weights: "pretrained" or "random".

    Raises:
        UserError: a model cannot be found or used, or the library that quantises it is not installed.
    """
    if cell.backbones.quantise is not None:
        check_installed(cell.backbones.quantise)
    trusted = cell.backbones.trust_remote_code
    return {
        m: locate(str(cell.model(m)), m, weights, cell.pooling(m), trust_remote_code=trusted)  # type: ignore[arg-type]
        for m in cell.modalities
    }


def load_data(cell: Cell) -> Data:
    """Load sources, catalogue and splits of a cell.

    Raises:
        UserError: a model or the dataset cannot be used; the message names the option.
    """
    sources = locate_encoders(cell, cell.backbones.weights)
    picture = sources["image"].preprocessing.picture if "image" in sources else None
    catalogue = datasets.load(cell.dataset, picture)
    if picture is not None and catalogue.images is None:
        raise UserError(f"dataset {catalogue.name} has no images: use --modality text, or give --image-dir")
    return Data(catalogue, datasets.split_catalogue(catalogue), sources)


def raw_feed(data: Data, cell: Cell) -> tuple[ItemFeed, float | None]:
    """Feed of tokens and pixels, and the share of unknown tokens, 0 to 1 (None without text).

    Raises:
        UserError: the tokenizer does not suit the titles (``bench.cell.titles``).
    """
    tokens, arrays = None, {}
    if "text" in data.sources:
        tokens = tokenise_titles(cell.dataset, data.catalogue, data.sources["text"])
        check_tokens(tokens, cell.dataset, data.catalogue, data.sources["text"])
    if "image" in data.sources:
        picture = data.sources["image"].preprocessing.picture
        assert picture is not None
        arrays["pixels"] = pixels(data.catalogue, picture)
    return ItemFeed(tokens, arrays), None if tokens is None else tokens.unknown_share


def load_encoders(sources: Mapping[str, Source], cell: Cell, device: torch.device | None = None) -> dict[str, Encoder]:
    """Load the backbones by modality; random weights are drawn from the cell's seed, per modality.

    Args:
        device: device that quantised maps are moved to; all other weights stay where they were loaded.

    Raises:
        UserError: an encoder cannot be loaded or quantised.
    """
    return {modality: load_encoder(modality, sources, cell, device) for modality in sources}


def load_encoder(
    modality: str, sources: Mapping[str, Source], cell: Cell, device: torch.device | None = None
) -> Encoder:
    """Load the backbone of one modality, see :func:`load_encoders`."""
    torch.manual_seed(1000 * cell.seed + list(sources).index(modality))
    encoder = Encoder.from_source(sources[modality])
    encoder.use_attention(cell.training.attention)
    if cell.backbones.quantise is not None:
        quantise(encoder.model, cell.backbones.quantise, cell.precision, device)
    return encoder


def reads_cache(method: Method) -> bool:
    """True if the method reads cached hidden states, so that its cells never load the backbones."""
    return isinstance(method, HiddenMethod) and method.cached


def kept_layers(method: HiddenMethod, sources: Mapping[str, Source]) -> dict[str, tuple[int, ...]]:
    """Modality -> layers whose hidden states the method reads."""
    return method.kept_of(shapes_of(sources))


def shapes_of(sources: Mapping[str, Source]) -> dict[str, Shape]:
    """Modality -> sizes of the encoder."""
    return {m: Shape(s.width, s.depth, s.widths) for m, s in sources.items()}


def check_network(cell: Cell, sources: Mapping[str, Source]) -> None:
    """Check that a method on hidden states fits the backbones, by building its network on the meta device.

    Methods that run the backbones are not checked.

    Raises:
        UserError: an option does not fit; the message names the method and the modality.
    """
    method = build_method(cell.method, "matrix")
    if not isinstance(method, HiddenMethod):
        return
    try:
        for modality, layers in kept_layers(method, sources).items():
            depth = sources[modality].depth
            missing = [layer for layer in layers if layer != OUTPUT and not 0 <= layer <= depth]
            if missing or not layers:
                raise UserError(
                    f"the {modality} encoder has layers 0 to {depth}, but the method keeps {list(layers) or 'none'}"
                )
        with torch.device("meta"):
            method.build(nn.Identity(), shapes_of(sources), cell.training.width)
    except UserError as error:
        raise UserError(f"method {cell.method.name}: {error}") from error


def check_encoders(cell: Cell, sources: Mapping[str, Source]) -> dict[str, Encoder] | None:
    """Build the encoders without memory, so that one that cannot be used shows before any cell runs.

    Returns:
        Modality -> encoder on the meta device; None if it has an operation that needs values, so that it is checked no
        earlier than a cell loads it.

    Raises:
        UserError: an encoder is not supported, or a folder lacks some of its weights.
    """
    for source in sources.values():
        if not source.random and Path(source.location).is_dir():
            load_model(source, "meta")
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return load_encoders({m: replace(source, random=True) for m, source in sources.items()}, cell)
    except RuntimeError:
        return None


def check_method(cell: Cell, encoders: Mapping[str, Encoder]) -> None:
    """Check that the options of a method that runs the backbones fit them.

    Args:
        encoders: modality -> encoder on the meta device.

    Raises:
        UserError: an option does not fit; the message names the method.
    """
    method = build_method(cell.method, "matrix")
    if isinstance(method, EncoderMethod):
        for encoder in encoders.values():
            try:
                method.check_encoder(encoder)
            except UserError as error:
                raise UserError(f"method {cell.method.name}: {error}") from error


def check_budget(cell: Cell, splits: Splits) -> None:
    """Check that the method can be trained with the cell's budget.

    Raises:
        UserError: the method cannot use this budget; the message names the method.
    """
    steps = Budget.of(cell.budget, steps_per_epoch(len(splits.train), cell.budget.batch_size)).limit_steps
    if message := build_method(cell.method, "matrix").check_budget(steps):
        raise UserError(f"method {cell.method.name}: {message}")


def build_model(
    cell: Cell, method: Method, sources: Mapping[str, Source], encoders: Mapping[str, Encoder]
) -> BuiltModel:
    """Build the recommender of a cell, on the device of its encoders and of new tensors.

    Args:
        sources: modality -> encoder source.
        encoders: modality -> loaded encoder; not used if the method reads cached hidden states.

    Raises:
        UserError: the method does not fit an encoder.
    """
    width = cell.training.width
    torch.manual_seed(cell.seed)
    items: ItemEncoder
    backbones = [encoder.model for encoder in encoders.values()]
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
        # After the method: peft would make the output of the embeddings require a gradient, which only the reentrant
        # kind of checkpointing needs.
        for model in backbones:
            checkpoint_gradients(model)
    # A separate seed, so that all methods start from the same user encoder, however many random numbers they drew.
    torch.manual_seed(cell.seed + 1)
    users = UserEncoder(width, dropout=cell.training.dropout)
    groups = (*items.groups, Group("user", method.lr_head, tuple(users.parameters())))
    return BuiltModel(Recommender(items, users, cell.training.logit_scale), groups, items.adapted)


def assemble(cell: Cell, device: torch.device, progress: CacheProgress | None = None) -> Assembly:
    """Load the data, build the model and move it to the device.

    Args:
        progress: called while a hidden-state cache is built.

    Raises:
        UserError: data, models or options cannot be used.
    """
    data = load_data(cell)
    check_budget(cell, data.splits)
    method = build_method(cell.method, "matrix")
    feed, unknown = raw_feed(data, cell)
    encoders: dict[str, Encoder] = {}
    caches: dict[str, CacheFile] = {}
    if reads_cache(method):
        caches = open_caches(cell, data, feed, kept_layers(method, data.sources), device, progress)
        feed = ItemFeed(arrays={HIDDEN_KEY.format(m): cache.states for m, cache in caches.items()})
    else:
        encoders = load_encoders(data.sources, cell, device)
    built = build_model(cell, method, data.sources, encoders)
    model = built.model.to(device)
    return Assembly(data, model, feed, built.groups, built.adapted, tuple(encoders.values()), caches, unknown)


def feed_of_items(cell: Cell, data: Data, catalogue: Catalogue, device: torch.device) -> ItemFeed:
    """Feed of the items of another catalogue, from a hidden-state cache of their own if the method reads the cache.

    Raises:
        UserError: the tokenizer does not suit the titles, or the cache cannot be built.
    """
    data = replace(data, catalogue=catalogue)
    feed, _ = raw_feed(data, cell)
    method = build_method(cell.method, "matrix")
    if not (isinstance(method, HiddenMethod) and reads_cache(method)):
        return feed
    caches = build_caches(cell, data, feed, kept_layers(method, data.sources), device)
    return ItemFeed(arrays={HIDDEN_KEY.format(m): cache.states for m, cache in caches.items()})


def open_caches(
    cell: Cell,
    data: Data,
    feed: ItemFeed,
    kept: KeptLayers,
    device: torch.device,
    progress: CacheProgress | None = None,
) -> dict[str, CacheFile]:
    """Open the hidden-state caches of a cell; a process of its own builds those that are absent.

    Building takes much more memory than a training step from the cache. In the process of the cell, this memory would
    stay reserved, and be part of its peaks.

    Args:
        feed: tokens and pixels of the cell's items.
        progress: called after every block of items.

    Raises:
        UserError: a cache cannot be built or written.
    """
    caches = find_caches(cell, data.sources, data.catalogue, feed, kept)
    if caches is None:
        told = progress or (lambda *_: None)
        notes = fresh_process.call(build_for_another, cell.to_json(), str(device), kept, progress=told)
        caches = build_caches(cell, data, feed, kept, device)  # finds them, unless another process removed one since
        caches = {m: replace(c, reused=notes[m][0], warning=notes[m][1]) for m, c in caches.items()}
    return caches


def build_for_another(
    cell_json: str, device: str, kept: KeptLayers, progress: CacheProgress
) -> dict[str, tuple[bool, str]]:
    """Build the hidden-state caches of a cell that runs in another process.

    Returns:
        Modality -> whether the file existed already, and the warning (see ``CacheFile``).
    """
    cell = Cell.from_json(cell_json)
    place = torch.device(device)
    torch.backends.cuda.enable_cudnn_sdp(cell.training.cudnn_attention)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    data = load_data(cell)
    feed, _ = raw_feed(data, cell)
    caches = build_caches(cell, data, feed, kept, place, progress)
    return {m: (cache.reused, cache.warning) for m, cache in caches.items()}


def build_caches(
    cell: Cell,
    data: Data,
    feed: ItemFeed,
    kept: KeptLayers,
    device: torch.device,
    progress: CacheProgress | None = None,
) -> dict[str, CacheFile]:
    """Open or build the hidden-state cache of every modality, in this process; see :func:`open_caches`."""
    caches = {}
    for modality, source in data.sources.items():
        load = partial(load_encoder, modality, data.sources, cell, device)
        told = None if progress is None else partial(progress, modality)
        caches[modality] = open_or_build_cache(cell, source, data.catalogue, feed, kept[modality], load, device, told)
    return caches
