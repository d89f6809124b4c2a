"""Items that look or read almost alike, in bounded time: what one of them teaches, a test may ask of the other.

Both searches cut a signature of every item into bands and compare only items that share one:

- titles as sets of words: MinHash (Broder 1997), then the exact Jaccard similarity of the candidates;
- pictures by 64 differences of neighbouring grey levels (difference hash): a pair that differs in at most three of
  them must agree in one of four bands.
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
"""Jaccard similarity of two titles' words from which on they are near-duplicates."""
NEAR_BITS = 3
"""Differences of two picture hashes up to which they are near-duplicates."""
MOST_ITEMS = 200_000
SECONDS = 60.0
"""Longest time for reading and comparing, each for titles and pictures."""
_WORDS = re.compile(r"\w+")
_BANDS, _ROWS_OF_BAND = 8, 4
_NEIGHBOURS = 32
"""Members of a band's bucket that each is compared with: a bucket may hold half the catalogue."""
_LARGEST_SHOWN = 3
_PRIME = (1 << 31) - 1


@dataclass(frozen=True)
class Alike:
    """What a search found.

    Attributes:
        compared: items that were looked at, an even sample where there are more than time allows.
        items: of those, how many have a near-duplicate.
        groups: how many groups they form, near-duplicates of near-duplicates included.
        largest: the items of the largest groups.
        complete: whether the comparison ended before its time was over.
    """

    compared: int
    items: int
    groups: int
    largest: tuple[tuple[int, ...], ...]
    complete: bool = True


def sample(count: int) -> NDArray[np.int64]:
    """At most `MOST_ITEMS` of that many items, in an order that makes any beginning an even sample."""
    return np.random.default_rng(0).permutation(count)[:MOST_ITEMS]


def alike_titles(titles: Iterable[str], seconds: float = SECONDS) -> Alike:
    """Near-duplicates among titles: the same words but for case, order, repetition and a fifth of them.

    Titles without a word are compared with nothing.
    """
    vocabulary: dict[str, int] = {}
    sets = [
        frozenset(vocabulary.setdefault(word, len(vocabulary)) for word in _WORDS.findall(title.lower()))
        for title in titles
    ]
    filled = [row for row, words in enumerate(sets) if words]
    if not filled:
        return Alike(len(sets), 0, 0, ())
    keys = _minhash([sets[row] for row in filled])

    def similar(first: int, second: int) -> bool:
        one, other = sets[filled[first]], sets[filled[second]]
        return len(one & other) >= SIMILAR_TITLES * len(one | other)

    return _grouped(keys, similar, np.array(filled), len(sets), seconds)


def _minhash(sets: list[frozenset[int]]) -> NDArray[np.uint64]:
    """Keys of the bands, (titles, bands): the smallest hash of a title's words under random linear functions."""
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
    """64 bits of a picture (height, width, 3): whether grey falls from each of 8 × 8 fields to the one on its right."""
    grey = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int.from_bytes(np.packbits(grey[:, :-1] > grey[:, 1:]).tobytes(), "big")


def alike_pictures(hashes: NDArray[np.uint64], seconds: float = SECONDS) -> Alike:
    """Near-duplicates among pictures by their hashes, (pictures,): those that differ in at most `NEAR_BITS` bits."""
    if not len(hashes):
        return Alike(0, 0, 0, ())
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
) -> Alike:
    """Join what is similar and shares a band.

    Args:
        keys: (n, bands).
        similar: of two places in ``keys``.
        rows: the item at each place.
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
    return Alike(compared, sum(map(len, found)), len(found), largest, complete)
