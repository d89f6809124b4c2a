"""The generated shop: its streams, its pictures and titles, and the exactness of its Bayes ceiling."""

import dataclasses
import itertools

import numpy as np
import pytest

from bench.data.baselines import rank_scores
from bench.data.shop import drawing, world
from bench.data.shop.shop import TASTES, ShopConfig, draw_sequences, item_traits, make_shop, make_truth
from bench.data.shop.truth import bayes_scores, oracle_scores

SMALL = ShopConfig(
    seed=3, items=60, users=40, categories=5, materials=2, purposes=3, colours=2, patterns=2, brands=6, max_length=8
)


def test_same_seed_same_shop_other_seed_another() -> None:
    assert make_shop(SMALL).digest == make_shop(SMALL).digest
    assert make_shop(SMALL).digest != make_shop(dataclasses.replace(SMALL, seed=4)).digest


def test_streams_leave_each_other_alone() -> None:
    shop = make_shop(SMALL)
    more_users = make_shop(dataclasses.replace(SMALL, users=50))
    assert more_users.titles == shop.titles
    assert np.array_equal(more_users.images, shop.images)
    assert all(np.array_equal(a, b) for a, b in zip(shop.sequences, more_users.sequences, strict=False))
    # More items: the first sixty keep their random pose and synonyms wherever their attributes are the same.
    stream = world.stream(SMALL.seed, "pictures", 0)
    first = item_traits(SMALL).row(0)
    assert np.array_equal(shop.images[0], drawing.draw(first["category"], first["colour"], first["pattern"], stream))


def test_attributes_show_where_they_should() -> None:
    traits = item_traits(SMALL)
    for i, title in enumerate(make_shop(SMALL).titles):
        words, row = set(title.split()), traits.row(i)
        assert words & set(world.MATERIALS[row["material"]])
        assert words & set(world.PURPOSES[row["purpose"]])
        assert words & set(world.CATEGORIES[row["category"]])
        assert world.BRANDS[row["brand"]] in words
        assert not words & set(world.COLOURS)
    known = set(world.vocabulary())
    assert all(set(title.split()) <= known for title in make_shop(SMALL).titles)


def test_words_are_unique_to_their_attribute_value() -> None:
    groups = [*world.CATEGORIES, *world.MATERIALS, *world.PURPOSES, *((b,) for b in world.BRANDS)]
    words = list(itertools.chain.from_iterable(groups))
    assert len(words) == len(set(words))


def test_pictures_tell_category_and_colour_apart() -> None:
    rng = world.stream(0, "test")
    red, blue = (np.mean([drawing.draw(9, c, 0, rng) for _ in range(20)], axis=0) for c in (0, 5))
    assert (red[..., 0] - blue[..., 0]).max() > 80
    silhouettes = [np.mean([drawing.draw(c, 9, 0, rng) for _ in range(20)], axis=0) for c in range(16)]
    for a, b in itertools.combinations(silhouettes, 2):
        assert np.abs(a - b).max() > 20


def brute_force(config: ShopConfig, history: list[int], tastes: list[tuple[int, ...]]) -> np.ndarray:
    """Probabilities of the last purchase by the model's definition, taste by taste and step by step."""
    truth, traits = make_truth(config), item_traits(config)
    values = np.stack([getattr(traits, name) for name in TASTES], axis=1)

    def distribution(taste: tuple[int, ...], before: list[int], last: bool = False) -> np.ndarray:
        met = (values == np.array(taste)) * np.array(config.taste_weights)
        score = truth.log_weight + met.sum(axis=1)
        row = int(truth.category[before[-1]]) if before else config.categories
        p = np.exp(score + truth.habit[row])
        p[before] = 0
        if not last:
            p[truth.late] = 0
        return p / p.sum()

    posterior = np.array(
        [np.prod([distribution(t, history[:k])[history[k]] for k in range(len(history))]) for t in tastes]
    )
    posterior /= posterior.sum()
    return np.sum([w * distribution(t, history, last=True) for w, t in zip(posterior, tastes, strict=True)], axis=0)


def test_bayes_ceiling_is_the_exact_posterior_predictive() -> None:
    truth, traits = make_truth(SMALL), item_traits(SMALL)
    tastes = list(itertools.product(*(sorted(set(getattr(traits, name).tolist())) for name in TASTES)))
    assert len(tastes) == truth.meets.shape[1]
    assert len(set(SMALL.taste_weights)) > 1
    assert truth.late.any()
    sequences = draw_sequences(SMALL, truth)[:5]
    scores = bayes_scores(truth, [s[:-1] for s in sequences])
    for score, sequence in zip(scores, sequences, strict=True):
        history = sequence[:-1].tolist()
        expected = brute_force(SMALL, history, tastes)
        ours = score.copy()
        ours[history] = 0
        assert np.allclose(ours / ours.sum(), expected, atol=1e-12)


def test_oracle_beats_bayes_beats_popularity() -> None:
    config = ShopConfig(seed=5)
    truth = make_truth(config)
    sequences = draw_sequences(config, truth)
    before, target = [s[:-1] for s in sequences], np.array([s[-1] for s in sequences])
    history = np.full((len(before), 12), -1, dtype=np.int32)
    for row, items in enumerate(before):
        history[row, : len(items)] = items
    popularity = np.bincount(np.concatenate([s[:-2] for s in sequences]), minlength=config.items).astype(float)

    def hr(scores: np.ndarray) -> float:
        return float((rank_scores(scores, target, history) <= 10).mean())

    plain = hr(np.tile(popularity, (len(before), 1)))
    assert hr(oracle_scores(truth, before)) > hr(bayes_scores(truth, before)) + 0.015
    assert hr(bayes_scores(truth, before)) > plain + 0.3
    assert plain > 0.05


def test_users_never_buy_twice_and_lengths_are_as_told() -> None:
    sequences = draw_sequences(SMALL, make_truth(SMALL))
    assert all(len(set(s.tolist())) == len(s) for s in sequences)
    assert {len(s) for s in sequences} == {5, 6, 7, 8}


def test_late_items_are_bought_last_and_often_enough_to_be_measured() -> None:
    config = ShopConfig(seed=5)
    truth = make_truth(config)
    sequences = draw_sequences(config, truth)
    assert truth.late.sum() == 4
    assert not truth.late[np.concatenate([s[:-1] for s in sequences])].any()
    bought = np.bincount([s[-1] for s in sequences], minlength=config.items)
    assert (bought[truth.late] > 0).all()
    assert 0.02 < bought[truth.late].sum() / config.users < 0.2


def test_a_taste_counts_by_the_weight_of_its_attribute() -> None:
    truth, traits = make_truth(SMALL), item_traits(SMALL)
    purposes = sorted(set(traits.purpose.tolist()))
    weights = np.log(truth.meets).reshape(SMALL.items, *(len(set(getattr(traits, n).tolist())) for n in TASTES))
    for place, purpose in enumerate(purposes):
        other = (place + 1) % len(purposes)
        gain = weights[traits.purpose == purpose][:, :, place] - weights[traits.purpose == purpose][:, :, other]
        assert np.allclose(gain, SMALL.taste_weights[TASTES.index("purpose")])


@pytest.mark.parametrize("names", [("a",), ("a", 1), ("a", 2), ("b", 1)])
def test_streams_are_named(names: tuple[str | int, ...]) -> None:
    draws = [world.stream(1, *other).random() for other in (("a",), ("a", 1), ("a", 2), ("b", 1))]
    assert draws.count(world.stream(1, *names).random()) == 1
