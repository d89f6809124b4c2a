"""Near-duplicates against comparing every pair."""

from itertools import combinations, pairwise

import numpy as np
from PIL import Image

from bench.data import near_duplicates
from bench.data.near_duplicates import difference_hash, near_duplicate_pictures, near_duplicate_titles


def pairs_of(groups: list[set[int]]) -> set[frozenset[int]]:
    """Groups that share a member become one."""
    joined: list[set[int]] = []
    for group in groups:
        touching = [other for other in joined if other & group]
        joined = [other for other in joined if not other & group] + [group.union(*touching)]
    return {frozenset(group) for group in joined}


def test_titles_against_every_pair() -> None:
    rng = np.random.default_rng(0)
    base = [[f"w{word}" for word in rng.integers(0, 300, 10)] for _ in range(60)]
    # Every third title again with one or two of its ten words replaced: Jaccard 9/11 or 8/12.
    again = [[*words[: 10 - n % 3], *(f"x{n}{k}" for k in range(n % 3))] for n, words in enumerate(base)]
    titles = [" ".join(words) for words in [*base, *again]]
    sets = [set(title.split()) for title in titles]
    similar = [
        {one, other}
        for one, other in combinations(range(len(sets)), 2)
        if len(sets[one] & sets[other]) >= near_duplicates.SIMILAR_TITLES * len(sets[one] | sets[other])
    ]
    expected = pairs_of(similar)
    found = near_duplicate_titles(titles)
    # MinHash may miss a pair that is just similar enough, and never reports one that is not.
    assert 0.9 * len(expected) <= found.groups <= len(expected)
    assert found.items == 2 * found.groups
    assert (found.compared, found.complete) == (120, True)


def test_case_order_repetition_and_marks_do_not_count() -> None:
    found = near_duplicate_titles(["Red Lamp, large", "large lamp (red) RED", "blue lamp, large", "!!!", "???"])
    assert (found.items, found.groups, found.largest) == (2, 1, ((0, 1),))


def test_no_words_at_all() -> None:
    assert near_duplicate_titles(["", "!"]).items == 0
    assert near_duplicate_pictures(np.zeros(0, dtype=np.uint64)).compared == 0


def test_pictures_against_every_pair() -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 80, dtype=np.uint64)
    near = [
        int(value) ^ sum(1 << int(bit) for bit in rng.choice(64, n % 6, replace=False)) for n, value in enumerate(base)
    ]
    hashes = np.array([*base, *near], dtype=np.uint64)
    similar = [
        {one, other}
        for one, other in combinations(range(len(hashes)), 2)
        if (int(hashes[one]) ^ int(hashes[other])).bit_count() <= near_duplicates.NEAR_BITS
    ]
    found = near_duplicate_pictures(hashes)
    assert found.groups == len(pairs_of(similar)) > 40
    assert found.items == sum(map(len, pairs_of(similar)))


def test_time_over_is_said() -> None:
    assert not near_duplicate_titles(["a b", "a b"], seconds=-1).complete


def test_the_hash_survives_scale_and_brightness_and_tells_pictures_apart() -> None:
    rng = np.random.default_rng(2)
    small = [Image.fromarray(rng.integers(30, 200, (8, 9), dtype=np.uint8)).convert("RGB") for _ in range(2)]
    one, other = (image.resize((96, 90), Image.Resampling.NEAREST) for image in small)

    def hashed(image: Image.Image) -> int:
        return difference_hash(np.asarray(image))

    brighter = Image.fromarray((np.asarray(one) + 40).astype(np.uint8))
    assert (hashed(one) ^ hashed(brighter)).bit_count() <= near_duplicates.NEAR_BITS
    assert (hashed(one) ^ hashed(one.resize((333, 200)))).bit_count() <= near_duplicates.NEAR_BITS
    assert (hashed(one) ^ hashed(other)).bit_count() > 15
    grey = np.asarray(small[0].convert("L")).astype(int)
    assert hashed(small[0]) == int("".join(str(int(a > b)) for row in grey for a, b in pairwise(row)), 2)


def test_a_shape_on_a_plain_background_is_told_by_its_place() -> None:
    def hashed(top: int, left: int) -> int:
        pixels = np.full((32, 32, 3), 235, dtype=np.uint8)
        pixels[top : top + 5, left : left + 5] = 60
        return difference_hash(pixels)

    hashes = [hashed(*place) for place in ((4, 4), (4, 20), (20, 4), (20, 20), (12, 12))]
    distances = [(one ^ other).bit_count() for one, other in combinations(hashes, 2)]
    assert min(distances) > 2 * near_duplicates.NEAR_BITS
