"""Generator of the shop: items from a subset of the world, and users who buy by taste, habit and popularity.

A user has one taste for each of material, purpose, colour and pattern. The next item j after an item of
category c is drawn, among the items not bought yet, with

    log p(j) = log w_j + (sum of the weights of the tastes that j meets) + habit_weight * S[c, category of j]

where S is 1 for a few successor categories of c. The log weight log w is a normal draw per brand plus a normal draw
per item, which gives popularity a long tail. Purpose and pattern, which some encoders were not taught, weigh more than
material and colour. Some items are late: they are on sale only when a user buys for the last time, so that no training
interaction shows them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.catalogue import Catalogue
from bench.data.shop import drawing, world

TASTES = ("material", "purpose", "colour", "pattern")
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ShopConfig:
    """Settings of the generator.

    Attributes:
        seed: seed of all random streams.
        items, users: size of the shop.
        min_length, max_length: bounds of the length of a user's sequence, drawn uniformly.
        categories, materials, purposes, colours, patterns, brands: number of the world's values that the shop carries.
        taste_weights: weights of the tastes in the log probability (see the module), in the order of ``TASTES``.
        habit_weight: weight of the habits in the log probability.
        successors: number of successor categories of each category.
        brand_spread, item_spread: standard deviations of the log weight per brand and per item.
        late_share: share of the items that are late.
    """

    seed: int = 1
    items: int = 128
    users: int = 6000
    min_length: int = 5
    max_length: int = 13
    categories: int = 8
    materials: int = 3
    purposes: int = 8
    colours: int = 3
    patterns: int = 6
    brands: int = 4
    taste_weights: tuple[float, float, float, float] = (1.2, 3.2, 1.2, 2.8)
    habit_weight: float = 3.0
    successors: int = 2
    brand_spread: float = 1.0
    item_spread: float = 0.6
    late_share: float = 0.03


@dataclass(frozen=True)
class ShopTruth:
    """True probabilities of the shop, known to the generator alone.

    Attributes:
        log_weight: log w, (items,).
        habit: habit_weight * S by category of the previous item, (shop categories + 1, items); the last row is for the
            first item of a sequence.
        category: row of ``habit`` for the item after this item, (items,).
        meets: exp(sum of the weights of the tastes met), (items, tastes), for all combinations of tastes.
        user_taste: column of ``meets`` of each user, (users,).
        late: True for the items that are on sale only for the last purchase of a user, (items,).
    """

    log_weight: FloatArray
    habit: FloatArray
    category: world.IntArray
    meets: FloatArray
    user_taste: world.IntArray
    late: NDArray[np.bool_]


def _allowed(config: ShopConfig) -> dict[str, world.IntArray]:
    counts = {
        "category": config.categories,
        "material": config.materials,
        "purpose": config.purposes,
        "brand": config.brands,
        "colour": config.colours,
        "pattern": config.patterns,
    }
    return {
        name: np.sort(world.stream(config.seed, "values", name).choice(world.SIZES[name], count, replace=False))
        for name, count in counts.items()
    }


def _meets(config: ShopConfig, traits: world.Traits, allowed: dict[str, world.IntArray]) -> FloatArray:
    """exp(sum of the weights of the tastes met) for every item and every combination of tastes."""
    grids = np.meshgrid(*(allowed[name] for name in TASTES), indexing="ij")
    combinations = np.stack([grid.ravel() for grid in grids])
    values = np.stack([getattr(traits, name) for name in TASTES])
    met = values[:, :, None] == combinations[:, None, :]  # (tastes of a user, items, combinations)
    return np.asarray(np.exp(np.tensordot(np.array(config.taste_weights), met, axes=1)))


def _habit(
    config: ShopConfig, traits: world.Traits, allowed: dict[str, world.IntArray]
) -> tuple[FloatArray, world.IntArray]:
    category = np.searchsorted(allowed["category"], traits.category)
    rng = world.stream(config.seed, "habits")
    follows = np.zeros((config.categories + 1, config.categories))
    for c in range(config.categories):
        others = np.delete(np.arange(config.categories), c)
        follows[c, rng.choice(others, config.successors, replace=False)] = 1.0
    return config.habit_weight * follows[:, category], category


def item_traits(config: ShopConfig) -> world.Traits:
    """Latent attributes of the items of the shop."""
    return world.draw_traits(config.items, world.stream(config.seed, "items"), _allowed(config))


def make_truth(config: ShopConfig) -> ShopTruth:
    """Probabilities of the shop, from the random streams of items, popularity, habits and tastes."""
    allowed, traits = _allowed(config), item_traits(config)
    rng = world.stream(config.seed, "popularity")
    brand_appeal = rng.normal(0, config.brand_spread, world.N_BRANDS)
    log_weight = brand_appeal[traits.brand] + rng.normal(0, config.item_spread, config.items)
    habit, category = _habit(config, traits, allowed)
    meets = _meets(config, traits, allowed)
    user_taste = world.stream(config.seed, "tastes").integers(meets.shape[1], size=config.users)
    late = np.zeros(config.items, dtype=bool)
    n_late = round(config.late_share * config.items)
    late[world.stream(config.seed, "late").choice(config.items, n_late, replace=False)] = True
    return ShopTruth(log_weight, habit, category, meets, user_taste, late)


def draw_sequences(config: ShopConfig, truth: ShopTruth) -> tuple[NDArray[np.int32], ...]:
    """Purchase sequence of each user, oldest first, without repeats, from a random stream per user."""
    sequences = []
    for user in range(config.users):
        rng = world.stream(config.seed, "users", user)
        length = int(rng.integers(config.min_length, config.max_length + 1))
        weight = np.exp(truth.log_weight) * truth.meets[:, truth.user_taste[user]]
        chosen: list[int] = []
        row = config.categories
        for purchase in range(length):
            p = weight * np.exp(truth.habit[row])
            p[chosen] = 0.0
            if purchase < length - 1:
                p[truth.late] = 0.0
            item = int(rng.choice(config.items, p=p / p.sum()))
            chosen.append(item)
            row = int(truth.category[item])
        sequences.append(np.array(chosen, dtype=np.int32))
    return tuple(sequences)


def show_items(traits: world.Traits, seed: int, kind: str = "") -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Titles and pictures, (items, 32, 32, 3), of items with these attributes; each item has streams of its own."""
    titles, pictures = [], []
    for i in range(len(traits.category)):
        row = traits.row(i)
        titles.append(world.write_title(row, world.stream(seed, f"{kind}titles", i)))
        rng = world.stream(seed, f"{kind}pictures", i)
        pictures.append(drawing.draw(row["category"], row["colour"], row["pattern"], rng))
    return tuple(titles), np.stack(pictures)


def make_shop(config: ShopConfig) -> Catalogue:
    """Catalogue of a generated shop: titles, pictures (items, 32, 32, 3), sequences and true probabilities."""
    traits, truth = item_traits(config), make_truth(config)
    titles, images = show_items(traits, config.seed)
    sequences = draw_sequences(config, truth)
    digest = hashlib.sha256("\n".join(titles).encode())
    digest.update(images.tobytes())
    for sequence in sequences:
        digest.update(sequence.tobytes() + b"|")
    return Catalogue(
        name="shop",
        digest=digest.hexdigest(),
        item_ids=tuple(f"item{i:04d}" for i in range(config.items)),
        titles=titles,
        images=images,
        user_ids=tuple(f"user{u:05d}" for u in range(config.users)),
        sequences=sequences,
        dropped={},
        notes=(f"generated shop, seed {config.seed}",),
        truth=truth,
    )
