"""New items for probes: drawn like those of a shop, and none of them."""

import dataclasses
from pathlib import Path

import numpy as np

from bench.data.config import DatasetConfig
from bench.data.datasets import load_new_items
from bench.data.shop import world
from bench.data.shop.held_out import make_new_items, new_traits
from bench.data.shop.shop import ShopConfig, item_traits, make_shop

# So few combinations of values that new items drawn at random would often be items of the shop.
FEW = ShopConfig(
    seed=3, items=60, users=10, categories=3, materials=2, purposes=2, colours=2, patterns=2, brands=3, max_length=8
)


def rows(traits: world.Traits) -> set[tuple[int, ...]]:
    return {tuple(row) for row in np.stack(traits, axis=1).tolist()}


def test_no_new_item_is_one_of_the_shop() -> None:
    own, new = item_traits(FEW), new_traits(FEW, 300)
    assert not rows(own) & rows(new)
    assert 100 < len(new.category) < 300  # the others were left out
    for name, values in new._asdict().items():
        assert set(values.tolist()) <= set(getattr(own, name).tolist())


def test_titles_and_pictures_are_those_of_the_attributes() -> None:
    config = ShopConfig(seed=5, items=80, users=10, categories=12, materials=8, colours=8, brands=24)
    traits, catalogue = new_traits(config, 90), make_new_items(config, 90)
    assert len(catalogue.titles) == len(traits.category) == 90
    for i, title in enumerate(catalogue.titles):
        words, row = set(title.split()), traits.row(i)
        assert world.BRANDS[row["brand"]] in words
        for group, name in ((world.CATEGORIES, "category"), (world.MATERIALS, "material"), (world.PURPOSES, "purpose")):
            assert words & set(group[row[name]])
    assert catalogue.images is not None
    assert catalogue.images.shape == (90, 32, 32, 3)
    dark = np.isin(traits.colour, [5, 9])  # blue and black against yellow, pink and orange
    light = np.isin(traits.colour, [1, 2, 7])
    brightness = catalogue.images.mean(axis=(1, 2, 3))
    assert brightness[light].mean() > brightness[dark].mean()
    shop = make_shop(config)
    assert not set(catalogue.titles) & set(shop.titles)
    assert not set(catalogue.item_ids) & set(shop.item_ids)


def test_the_same_seed_gives_the_same_items() -> None:
    one, again = make_new_items(FEW, 50), make_new_items(FEW, 50)
    assert one.digest == again.digest
    assert make_new_items(dataclasses.replace(FEW, seed=4), 50).digest != one.digest


def test_attributes_are_known_for_the_shop_alone(tmp_path: Path) -> None:
    found = load_new_items(DatasetConfig(items=60, users=20, seed=2))
    assert found is not None
    catalogue, labels = found
    assert list(labels) == ["category", "material", "purpose", "brand", "colour", "pattern"]
    assert {len(values) for values in labels.values()} == {len(catalogue.titles)}
    again = load_new_items(DatasetConfig(items=60, users=20, seed=2))  # from the cache
    assert again is not None
    assert again[0].digest == catalogue.digest
    assert load_new_items(DatasetConfig(name="table", data_dir=str(tmp_path))) is None
