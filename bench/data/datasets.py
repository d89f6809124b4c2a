"""From the dataset's configuration to its catalogue and to the floors and ceilings of its accuracy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import cached_catalogue
from bench.data.catalogue import Catalogue
from bench.data.config import DatasetConfig
from bench.data.ragged import Ragged
from bench.data.readers.amazon import load_amazon
from bench.data.readers.images import Policies
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.shop import drawing, shop, truth, world
from bench.data.splits import PAD, Splits, split
from bench.utils.errors import UserError
from bench.utils.files import digest_of

FEWEST_ITEMS = 11
"""With fewer, every item is among the first ten and a ranking at 10 says nothing."""


def shop_config(config: DatasetConfig) -> shop.ShopConfig:
    """The generator's settings."""
    return shop.ShopConfig(seed=config.seed, items=config.items, users=config.users)


def load(config: DatasetConfig, image_size: int | None) -> Catalogue:
    """The catalogue of a configuration; ``image_size`` is None when the pictures are not needed.

    Raises:
        UserError: for anything wrong with the files, or so few items that ranking them says nothing.
    """
    build = {"shop": _shop, "amazon": _amazon}.get(config.name, _tables)
    catalogue = build(config, image_size)
    if (items := len(catalogue.item_ids)) < FEWEST_ITEMS:
        raise UserError(
            f"{config.data_dir}: {items} items are left: HR@10 and NDCG@10 need a catalogue of at least {FEWEST_ITEMS}"
        )
    return catalogue


def _amazon(config: DatasetConfig, image_size: int | None) -> Catalogue:
    assert config.data_dir is not None
    policies = Policies(config.missing_images, config.bad_images)
    needs_images = image_size is not None
    return load_amazon(config.data_dir, config.image_dir, image_size, policies, needs_images=needs_images)


def _tables(config: DatasetConfig, image_size: int | None) -> Catalogue:
    return load_files(files_config(config), image_size)


def _shop(config: DatasetConfig, _: int | None) -> Catalogue:
    settings = shop_config(config)
    # The generator's own text is part of the key: a changed generator must not be served yesterday's shop.
    code = [Path(module.__file__ or "").read_bytes() for module in (world, drawing, shop)]
    key = digest_of("shop", *code, repr(dataclasses.astuple(settings)))
    return cached_catalogue(key, lambda _: shop.make_shop(settings))


def files_config(config: DatasetConfig) -> FilesConfig:
    """What the reader of tables needs to know."""
    assert config.data_dir is not None
    return FilesConfig(
        name=config.name,
        folder=Path(config.data_dir),
        columns={role: name for role, name in vars(config.columns).items() if name is not None},
        image_dir=config.image_dir,
        policies=Policies(config.missing_images, config.bad_images),
        valid_from=config.valid_from,
        test_from=config.test_from,
    )


def split_catalogue(catalogue: Catalogue) -> Splits:
    """Training, validation and test as the catalogue's source decided."""
    return split(catalogue.sequences, len(catalogue.item_ids), catalogue.cuts)


Metrics = dict[str, float]


def _metrics(ranks: NDArray[np.int64]) -> Metrics:
    hit = ranks <= 10
    return {"hr@10": float(hit.mean()), "ndcg@10": float((hit / np.log2(ranks + 1.0)).mean())}


def rank_scores(
    scores: NDArray[np.float64], target: NDArray[np.int32], history: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Ranks of targets in a score table (users, items), history excluded, ties against the ranking."""
    scores = scores.copy()
    users, columns = np.nonzero(history != PAD)
    scores[users, history[users, columns]] = -np.inf
    own = np.take_along_axis(scores, target[:, None].astype(np.int64), axis=1)
    return np.asarray((scores >= own).sum(axis=1))


def random_floor(n_items: int, history: NDArray[np.int32]) -> Metrics:
    """The exact expectation of a random ranking."""
    ordered, first = _distinct(history)
    candidates = n_items - (first & (ordered != PAD)).sum(axis=1)
    gains = np.cumsum(1 / np.log2(np.arange(2, 12)))
    reached = np.minimum(candidates, 10)
    return {"hr@10": float((reached / candidates).mean()), "ndcg@10": float((gains[reached - 1] / candidates).mean())}


def _distinct(history: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Each row in ascending order, and where in it an item stands for the first time."""
    ordered = np.sort(history, axis=1)
    first = np.ones(ordered.shape, dtype=np.bool_)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return ordered, first


def references(config: DatasetConfig, catalogue: Catalogue, splits: Splits) -> dict[str, Metrics]:
    """Test HR@10 and NDCG@10 of random, popularity and, in the shop, the Bayes ceiling and the oracle.

    The Bayes ceiling sees the whole history, up to 12 items; the models see its last 10.
    """
    n_items = len(catalogue.item_ids)
    target, history = splits.test_target, splits.test_history
    out = {"random": random_floor(n_items, history), "popularity": _popularity(splits)}
    if config.name == "shop":
        known = shop.make_truth(shop_config(config))
        before = [sequence[:-1] for sequence in catalogue.sequences]
        for name, score in (("bayes", truth.bayes_scores), ("oracle", truth.oracle_scores)):
            out[name] = _metrics(rank_scores(score(known, before), target, history))
    return out


def _popularity(splits: Splits) -> Metrics:
    return _metrics(popularity_ranks(splits))


def popularity_ranks(splits: Splits) -> NDArray[np.int64]:
    """Ranks of the test targets by training interactions, (tested,), history excluded, ties against the ranking.

    Counted from the sorted counts: a table of users and items would not fit into memory.
    """
    counts = splits.popularity
    own = counts[splits.test_target]
    not_below = len(counts) - np.searchsorted(np.sort(counts), own)
    history, first = _distinct(splits.test_history)
    left_out = first & (history != PAD) & (counts[history] >= own[:, None])
    return np.asarray(not_below - left_out.sum(axis=1), dtype=np.int64)


def describe(config: DatasetConfig, catalogue: Catalogue, splits: Splits) -> dict[str, object]:
    """The facts for ``dataset.json``."""
    lengths = Ragged.of(catalogue.sequences).lengths
    return {
        "name": catalogue.name,
        "digest": catalogue.digest,
        "users": len(catalogue.user_ids),
        "items": len(catalogue.item_ids),
        "interactions": int(lengths.sum()),
        "train_interactions": int(splits.popularity.sum()),
        "items_never_in_training": int((splits.popularity == 0).sum()),
        "split": _split_facts(config, splits),
        "sequence_length": {"min": int(lengths.min()), "max": int(lengths.max()), "mean": float(lengths.mean())},
        "dropped": catalogue.dropped,
        "notes": list(catalogue.notes),
    }


def _split_facts(config: DatasetConfig, splits: Splits) -> dict[str, object]:
    moments = {"valid_from": config.valid_from, "test_from": config.test_from}
    return {
        "kind": config.split,
        **{name: value for name, value in moments.items() if value is not None},
        "train_users": len(splits.train_users),
        "valid_users": len(splits.valid_users),
        "test_users": len(splits.test_users),
    }
