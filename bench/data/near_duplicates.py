"""Search for items with near-duplicate titles or pictures, in bounded time.

Near-duplicates leak between training and test: what one item teaches, the test may ask about the other. Both searches
cut a signature of every item into bands and compare only items that agree in a band (locality-sensitive hashing):

- titles as sets of words: MinHash (Broder 1997), then the exact Jaccard similarity of the candidates;
- pictures by 64 differences of neighbouring grey levels (difference hash): two hashes that differ in at most three
  bits agree in at least one of four bands.

Why not `datasketch` and `imagehash`: on the 20,825 titles of Amazon Scientific, `datasketch` with the same bands takes
3.4 s instead of 1.0 s and finds the same 3,786 items; with its default bands for this threshold it finds 3,110 of the
3,795 that comparing every pair finds. Its queries return whole buckets: for 20,000 titles of one template, 1.2 s here,
a tenth of its queries takes 60 s, so the bounds below would stay. `imagehash` gives the same bits as `difference_hash`
(inverted, up to ties) in 1.4 times the time, has no search, and needs PyWavelets.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIMILAR_TITLES = 0.8
"""Smallest Jaccard similarity between the word sets of two titles that are near-duplicates."""
NEAR_BITS = 3
"""Largest number of different bits between the hashes of two pictures that are near-duplicates."""
MOST_ITEMS = 200_000
"""Largest number of items that are compared."""
SECONDS = 60.0
"""Time limit of a comparison, and of reading the pictures for it."""
_WORDS = re.compile(r"\w+")
_BANDS, _ROWS_OF_BAND = 8, 4
_NEIGHBOURS = 32
"""Following members of its bucket that an item is compared with: a bucket may hold half the catalogue."""
_LARGEST_SHOWN = 3
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class NearDuplicates:
    """Result of a search for near-duplicates.

    Attributes:
        compared: number of items compared; a uniform sample where there are more than the limits allow.
        items: number of compared items that have a near-duplicate.
        groups: number of groups they form; near-duplicates of near-duplicates are in one group.
        largest: places of the items of the largest groups.
        complete: False if the time limit ended the comparison.
    """

    compared: int
    items: int
    groups: int
    largest: tuple[tuple[int, ...], ...]
    complete: bool = True


def sample(count: int) -> NDArray[np.int64]:
    """Places of at most `MOST_ITEMS` of ``count`` items, shuffled: any prefix is a uniform sample."""
    return np.random.default_rng(0).permutation(count)[:MOST_ITEMS]


def near_duplicate_titles(titles: Iterable[str], seconds: float = SECONDS) -> NearDuplicates:
    """Near-duplicates among titles: word sets with a Jaccard similarity of at least `SIMILAR_TITLES`.

    Case, order, repetition and punctuation do not count. Titles without a word have no near-duplicates.

    Args:
        titles: one per item.
        seconds: time limit of the comparison.
    """
    vocabulary: dict[str, int] = {}
    sets = [
        frozenset(vocabulary.setdefault(word, len(vocabulary)) for word in _WORDS.findall(title.lower()))
        for title in titles
    ]
    filled = [row for row, words in enumerate(sets) if words]
    if not filled:
        return NearDuplicates(len(sets), 0, 0, ())
    keys = _minhash([sets[row] for row in filled])

    def similar(first: int, second: int) -> bool:
        one, other = sets[filled[first]], sets[filled[second]]
        return len(one & other) >= SIMILAR_TITLES * len(one | other)

    return _grouped(keys, similar, np.array(filled), len(sets), seconds)


def _minhash(sets: list[frozenset[int]]) -> NDArray[np.uint64]:
    """Keys of the bands, (titles, bands): smallest hashes of a title's words under random linear functions."""
    generator = np.random.default_rng(0)
    words = np.fromiter((word for words in sets for word in words), dtype=np.uint64)
    starts = np.concatenate([[0], np.cumsum([len(words) for words in sets])[:-1]])
    keys = np.zeros((len(sets), _BANDS), dtype=np.uint64)
    for band in range(_BANDS):
        for _ in range(_ROWS_OF_BAND):
            factor, shift = (np.uint64(value) for value in generator.integers(1, _PRIME, 2))
            smallest = np.minimum.reduceat((words * factor + shift) % np.uint64(_PRIME), starts)
            keys[:, band] = keys[:, band] * np.uint64(0x9E3779B97F4A7C15) + smallest
    return keys


def difference_hash(pixels: NDArray[np.uint8]) -> int:
    """Difference hash of a picture (height, width, 3): 64 bits, set where grey falls between horizontal neighbours.

    The picture is reduced to 9 × 8 grey fields first. The Lanczos filter distinguishes pictures with a plain
    background: of pairs among 500 drawings of shapes (easy-VQA) 0.05 % have hashes within three bits, with a box filter
    2.6 %.
    """
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def near_duplicate_pictures(hashes: NDArray[np.uint64], seconds: float = SECONDS) -> NearDuplicates:
    """Near-duplicates among pictures: hashes that differ in at most `NEAR_BITS` bits.

    Args:
        hashes: `difference_hash` of each picture, (pictures,).
        seconds: time limit of the comparison.
    """
    if not len(hashes):
        return NearDuplicates(0, 0, 0, ())
    keys = np.stack([(hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF) for band in range(4)], axis=1)
    values = [int(value) for value in hashes]

    def similar(first: int, second: int) -> bool:
        return (values[first] ^ values[second]).bit_count() <= NEAR_BITS

    return _grouped(keys, similar, np.arange(len(hashes)), len(hashes), seconds)


def _grouped(
    keys: NDArray[np.uint64],
    similar: Callable[[int, int], bool],
    rows: NDArray[np.int64],
    compared: int,
    seconds: float,
) -> NearDuplicates:
    """Group similar items (union-find) among those with an equal key in a band.

    Args:
        keys: (n, bands).
        similar: decides about two places in ``keys``.
        rows: item at each place, (n,).
        compared: number of items to report as compared.
        seconds: time limit; what was found until then is returned as incomplete.
    """
    parent = list(range(len(keys)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    deadline, complete = time.monotonic() + seconds, True
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ends = np.flatnonzero(np.diff(keys[order, band])) + 1
        for bucket in np.split(order, ends):
            if len(bucket) < 2:
                continue
            if time.monotonic() > deadline:
                complete = False
                break
            members = bucket.tolist()
            for place, first in enumerate(members):
                for second in members[place + 1 : place + 1 + _NEIGHBOURS]:
                    one, other = root(first), root(second)
                    if one != other and similar(first, second):
                        parent[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for place in range(len(keys)):
        groups.setdefault(root(place), []).append(int(rows[place]))
    found = sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    largest = tuple(tuple(group) for group in found[:_LARGEST_SHOWN])
    return NearDuplicates(compared, sum(map(len, found)), len(found), largest, complete)
