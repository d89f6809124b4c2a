"""New items for a shop, drawn as its own items are, to probe what the vectors of items hold."""

from __future__ import annotations

import numpy as np

from bench.data.cache.catalogue_store import catalogue_digest
from bench.data.catalogue import Catalogue
from bench.data.shop import world
from bench.data.shop.shop import ShopConfig, item_traits, show_items


def new_traits(config: ShopConfig, n: int) -> world.Traits:
    """Attributes of new items, of which there are a few less than n: those of an item of the shop are left out.

    They are drawn from a random stream of their own, among the values that the items of the shop have.
    """
    shop = item_traits(config)
    values = {name: np.unique(own) for name, own in shop._asdict().items()}
    drawn = world.draw_traits(n, world.stream(config.seed, "new items"), values)
    taken = {tuple(row) for row in np.stack(shop, axis=1).tolist()}
    new = [tuple(row) not in taken for row in np.stack(drawn, axis=1).tolist()]
    return world.Traits(*(column[new] for column in drawn))


def make_new_items(config: ShopConfig, n: int) -> Catalogue:
    """Catalogue of the items of :func:`new_traits`, with titles and pictures and without users."""
    titles, images = show_items(new_traits(config, n), config.seed, "new ")
    ids = tuple(f"new{i:04d}" for i in range(len(titles)))
    return Catalogue(
        name="shop",
        digest=catalogue_digest(ids, titles, (), (), images),
        item_ids=ids,
        titles=titles,
        images=images,
        user_ids=(),
        sequences=(),
        dropped={},
        notes=(),
    )
