"""The world of all possible shop items: attribute values, the words for them, and the grammar of titles.

Pretraining draws items from the whole world; a shop uses a random subset of the values. Each attribute shows in fixed
modalities: the category in both, material, purpose and brand in the title alone, colour and pattern in the picture
alone.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

CATEGORIES: tuple[tuple[str, ...], ...] = (
    ("lamp", "light", "lantern"),
    ("chair", "seat", "armchair"),
    ("mug", "cup", "beaker"),
    ("bottle", "flask", "canteen"),
    ("bag", "tote", "satchel"),
    ("boot", "shoe", "sneaker"),
    ("hat", "cap", "bonnet"),
    ("clock", "timer", "alarm"),
    ("table", "desk", "bench"),
    ("umbrella", "parasol", "sunshade"),
    ("shirt", "tee", "blouse"),
    ("vase", "urn", "jar"),
    ("ornament", "star", "charm"),
    ("box", "crate", "chest"),
    ("birdhouse", "kennel", "hutch"),
    ("kite", "glider", "streamer"),
)
MATERIALS: tuple[tuple[str, ...], ...] = (
    ("wooden", "oak", "timber"),
    ("steel", "metal", "iron"),
    ("leather", "hide", "suede"),
    ("cotton", "cloth", "linen"),
    ("glass", "crystal", "glazed"),
    ("ceramic", "porcelain", "clay"),
    ("plastic", "acrylic", "vinyl"),
    ("bamboo", "rattan", "wicker"),
    ("wool", "felt", "knitted"),
    ("stone", "marble", "granite"),
    ("paper", "cardboard", "pulp"),
    ("rubber", "silicone", "latex"),
)
PURPOSES: tuple[tuple[str, ...], ...] = (
    ("kitchen", "cooking", "chef"),
    ("garden", "patio", "yard"),
    ("office", "workplace", "business"),
    ("travel", "journey", "trip"),
    ("sport", "gym", "fitness"),
    ("camping", "hiking", "outdoor"),
    ("party", "festive", "celebration"),
    ("kids", "children", "toddler"),
    ("pets", "dog", "puppy"),
    ("beach", "seaside", "summer"),
    ("winter", "snow", "alpine"),
    ("bath", "shower", "spa"),
)
COLOURS: tuple[str, ...] = (
    "red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "black",
)  # fmt: skip
PATTERNS: tuple[str, ...] = ("plain", "stripes", "bars", "diagonal", "dots", "checks", "rings", "zigzag")
ADJECTIVES: tuple[str, ...] = (
    "new", "classic", "modern", "premium", "simple", "sturdy", "featherweight", "elegant", "handy", "compact", "large",
    "small", "deluxe", "basic", "vintage", "durable", "stylish", "cosy", "slim", "original", "smart", "rustic",
)  # fmt: skip
TAILS: tuple[str, ...] = (
    "gift set", "pack of two", "limited edition", "free delivery", "great value", "with manual", "best seller",
    "new season", "easy care", "made to last", "money back", "top rated", "with pouch", "spare parts", "last pieces",
    "ready to use", "special offer", "for every day",
)  # fmt: skip
TEMPLATES: tuple[str, ...] = (
    "{brand} {adjective} {material} {noun} for {purpose} {tail}",
    "{adjective} {noun} by {brand} {material} {purpose} use {tail}",
    "{purpose} {adjective} {noun} in {material} from {brand} {tail}",
    "the {material} {noun} {adjective} good for {purpose} by {brand} {tail}",
)
SYLLABLES: tuple[str, ...] = ("ba", "do", "fi", "ka", "lu", "me", "no", "ri", "sa", "tu", "ve", "zo")
TAIL_PROBABILITY = 0.4
ADJECTIVE_PROBABILITY = 0.5
N_BRANDS = 96


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Separate random stream for each purpose, so that more draws from one stream do not change another.

    Args:
        seed: seed of the whole shop or pretraining run.
        names: the purpose, e.g. ``("pictures", 17)``.
    """
    label = "/".join(map(str, names)).encode()
    words = np.frombuffer(hashlib.sha256(label).digest()[:16], dtype=np.uint32)
    return np.random.default_rng([seed, *words.tolist()])


def _brands() -> tuple[str, ...]:
    n = len(SYLLABLES)
    codes = stream(0, "brands").choice(n**3, size=N_BRANDS, replace=False)
    return tuple(SYLLABLES[c // n**2] + SYLLABLES[c // n % n] + SYLLABLES[c % n] for c in codes.tolist())


BRANDS = _brands()


class Traits(NamedTuple):
    """Attribute values of n items, one integer array (n,) per attribute."""

    category: IntArray
    material: IntArray
    purpose: IntArray
    brand: IntArray
    colour: IntArray
    pattern: IntArray

    def row(self, i: int) -> dict[str, int]:
        """Attribute values of item i by name."""
        return {name: int(values[i]) for name, values in self._asdict().items()}


SIZES: dict[str, int] = {
    "category": len(CATEGORIES),
    "material": len(MATERIALS),
    "purpose": len(PURPOSES),
    "brand": N_BRANDS,
    "colour": len(COLOURS),
    "pattern": len(PATTERNS),
}


def draw_traits(n: int, rng: np.random.Generator, allowed: dict[str, IntArray] | None = None) -> Traits:
    """Draws n items uniformly, from the whole world or from the ``allowed`` values of each attribute."""
    values = allowed or {name: np.arange(size) for name, size in SIZES.items()}
    return Traits(**{name: rng.choice(values[name], size=n) for name in Traits._fields})


def write_title(traits: dict[str, int], rng: np.random.Generator) -> str:
    """A lower-case title of 5 to 13 words: one template, one synonym per attribute, filler words."""

    def synonym(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    title = template.format(
        brand=BRANDS[traits["brand"]],
        noun=synonym(CATEGORIES[traits["category"]]),
        material=synonym(MATERIALS[traits["material"]]),
        purpose=synonym(PURPOSES[traits["purpose"]]),
        adjective=synonym(ADJECTIVES) if rng.random() < ADJECTIVE_PROBABILITY else "",
        tail=synonym(TAILS) if rng.random() < TAIL_PROBABILITY else "",
    )
    return " ".join(title.split())


def vocabulary() -> list[str]:
    """All words that a title can contain, after the special tokens."""
    words: set[str] = set(BRANDS)
    for group in (*CATEGORIES, *MATERIALS, *PURPOSES, ADJECTIVES, TAILS, TEMPLATES):
        for phrase in group if isinstance(group, tuple) else (group,):
            words.update(w for w in phrase.split() if "{" not in w)
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
