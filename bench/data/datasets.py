"""Loading of a configured dataset as a catalogue, its split, and the facts about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL

from bench.data.cache.catalogue_store import cached_catalogue
from bench.data.catalogue import Catalogue
from bench.data.config import DatasetConfig
from bench.data.framing import PictureSize
from bench.data.kinds import GENERATED
from bench.data.ragged import Ragged
from bench.data.readers.amazon import load_amazon
from bench.data.readers.file_layouts import LAYOUTS
from bench.data.readers.images import Policies
from bench.data.readers.table_dataset import FilesConfig, load_files
from bench.data.shop import drawing, held_out, shop, world
from bench.data.splits import Splits, split
from bench.utils.errors import UserError
from bench.utils.files import digest_of

NEW_ITEMS = 900
"""Number of items of `load_new_items`, about."""
FEWEST_ITEMS = 11
"""Smallest catalogue: with fewer items every item is among the first ten, and a ranking at 10 says nothing."""


def shop_config(config: DatasetConfig) -> shop.ShopConfig:
    """Settings of the shop's generator."""
    return shop.ShopConfig(seed=config.seed, items=config.items, users=config.users)


def load(config: DatasetConfig, image_size: PictureSize | None) -> Catalogue:
    """Catalogue of a configured dataset, from the cache if it holds the same data.

    Args:
        config: which dataset.
        image_size: height and width of the pictures in pixels, or their framing; None if they are not needed.

    Raises:
        UserError: something is wrong with the files, or the catalogue has fewer than `FEWEST_ITEMS` items.
    """
    catalogue = LOADERS[config.name](config, image_size)
    if (items := len(catalogue.item_ids)) < FEWEST_ITEMS:
        raise UserError(
            f"{config.data_dir}: {items} items are left: HR@10 and NDCG@10 need a catalogue of at least {FEWEST_ITEMS}"
        )
    return catalogue


def _amazon(config: DatasetConfig, image_size: PictureSize | None) -> Catalogue:
    assert config.data_dir is not None
    policies = Policies(config.missing_images, config.bad_images)
    needs_images = image_size is not None
    return load_amazon(config.data_dir, config.image_dir, image_size, policies, needs_images=needs_images)


def _tables(config: DatasetConfig, image_size: PictureSize | None) -> Catalogue:
    return load_files(files_config(config), image_size)


def _shop(config: DatasetConfig, _: PictureSize | None) -> Catalogue:
    settings = shop_config(config)
    # The generator's source text is part of the key: a changed generator must not be served an older shop. So are the
    # libraries that draw numbers and pictures, which promise no equal draws across versions.
    key = _generated_key("shop", settings, world, drawing, shop)
    return cached_catalogue(key, lambda _: shop.make_shop(settings))


def _generated_key(what: str, settings: shop.ShopConfig, *modules: ModuleType) -> str:
    code = [Path(module.__file__ or "").read_bytes() for module in modules]
    return digest_of(what, *code, repr(dataclasses.astuple(settings)), np.__version__, PIL.__version__)


def load_new_items(config: DatasetConfig) -> tuple[Catalogue, dict[str, world.IntArray]] | None:
    """Items that are new to a dataset, in random order, and the value of each of their attributes, (items,).

    They are known for the generated shop alone; None for any other dataset.
    """
    if config.name != GENERATED:
        return None
    settings = shop_config(config)
    key = _generated_key(f"{NEW_ITEMS} new items", settings, world, drawing, shop, held_out)
    catalogue = cached_catalogue(key, lambda _: held_out.make_new_items(settings, NEW_ITEMS))
    return catalogue, held_out.new_traits(settings, NEW_ITEMS)._asdict()


LOADERS: dict[str, Callable[[DatasetConfig, PictureSize | None], Catalogue]] = {
    GENERATED: _shop,
    "amazon": _amazon,
    **dict.fromkeys(LAYOUTS, _tables),
}
"""Kind of dataset -> function that loads it."""


def files_config(config: DatasetConfig) -> FilesConfig:
    """Settings of the reader of tables."""
    assert config.data_dir is not None
    return FilesConfig(
        name=config.name,
        folder=Path(config.data_dir),
        columns={role: name for role, name in vars(config.columns).items() if name is not None},
        image_dir=config.image_dir,
        policies=Policies(config.missing_images, config.bad_images),
        valid_from=config.valid_from,
        test_from=config.test_from,
        min_rating=config.min_rating,
    )


def split_catalogue(catalogue: Catalogue) -> Splits:
    """Training, validation and test parts of a catalogue: in time if it has cuts, otherwise leave-one-out."""
    return split(catalogue.sequences, len(catalogue.item_ids), catalogue.cuts)


def describe(config: DatasetConfig, catalogue: Catalogue, splits: Splits) -> dict[str, object]:
    """Facts about a dataset for ``dataset.json``."""
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
        "notes": [*catalogue.warnings, *catalogue.notes],
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
