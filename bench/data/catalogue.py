"""The catalogue, the common form of all datasets: items with titles and pictures, and users with their sequences."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and users of one dataset, immutable, before the split.

    Two catalogues have the same content if their digests are equal (`eq=False`: `==` of arrays would give arrays).
    """

    name: str
    """Kind of the dataset (`bench.data.kinds`)."""
    digest: str
    """SHA-256 over ids, titles, sequences and images (`bench.data.cache.catalogue_store.catalogue_digest`)."""
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    """One per item, with HTML entities decoded, in the case of the source."""
    images: NDArray[np.uint8] | None
    """(items, height, width, 3) RGB, possibly a read-only memory map; None for a catalogue without pictures."""
    user_ids: tuple[str, ...]
    sequences: Sequence[NDArray[np.int32]]
    """Item indices of each user, oldest first. Without `cuts` a sequence has `MIN_LENGTH` to `MAX_LENGTH` items
    (`bench.data.splits`)."""
    dropped: dict[str, int]
    """Parts of the source that were left out: reason -> count."""
    notes: tuple[str, ...]
    """Sentences for the report about how the source was read."""
    warnings: tuple[str, ...] = field(default=(), kw_only=True)
    """Such sentences about losses or oddities so large that they put the figures in doubt."""
    cuts: NDArray[np.int32] | None = None
    """Places of a split in time, (users, 3), as `bench.data.splits.split` takes them; None for leave-one-out."""
    truth: object | None = None
    """True probabilities of the generated shop; None for other datasets."""

    def __post_init__(self) -> None:
        """Check that the parts fit together (ValueError: a programming error in a reader, not in the user's files)."""
        if len(self.titles) != len(self.item_ids):
            raise ValueError(f"{len(self.titles)} titles for {len(self.item_ids)} items")
        if len(self.sequences) != len(self.user_ids):
            raise ValueError(f"{len(self.sequences)} sequences for {len(self.user_ids)} users")
        if self.images is not None:
            expected = (len(self.item_ids), *self.images.shape[1:3], 3)
            if self.images.ndim != 4 or self.images.shape != expected or self.images.dtype != np.uint8:
                raise ValueError(f"images are {self.images.dtype}{self.images.shape}, expected uint8{expected}")
