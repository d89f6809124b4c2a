"""What every data source ends in: items with titles and pictures, and users with their sequences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items and users of one dataset, ready to be split; never changed once made.

    `eq=False`: two catalogues hold the same content when their digests are equal; comparing arrays with `==` would
    give arrays.
    """

    name: str
    """The source, as `bench.data.config.DatasetConfig` names it."""
    digest: str
    """sha256 over ids, titles, sequences and images (see `catalogue_digest` in `bench.data.cache`)."""
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    """One per item, HTML entities decoded, case as in the source: lower-casing belongs to tokenisation."""
    images: NDArray[np.uint8] | None
    """(items, height, width, 3) RGB, perhaps a read-only memory map; None for a catalogue without pictures."""
    user_ids: tuple[str, ...]
    sequences: Sequence[NDArray[np.int32]]
    """Per user the item indices, oldest first: `MIN_LENGTH` to `MAX_LENGTH` of them (`bench.data.splits`), where
    there are no `cuts`."""
    dropped: dict[str, int]
    """What of the source is not in here: reason -> count."""
    notes: tuple[str, ...]
    """Sentences for the report about how the source was read."""
    cuts: NDArray[np.int32] | None = None
    """(users, 3): where time splits the sequences (`bench.data.splits.split`); None: the last two items do."""
    truth: object | None = None
    """The generated shop's own probabilities; None for data whose truth nobody knows."""

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together (ValueError: a fault of the source's code, not of its user)."""
        if len(self.titles) != len(self.item_ids):
            raise ValueError(f"{len(self.titles)} titles for {len(self.item_ids)} items")
        if len(self.sequences) != len(self.user_ids):
            raise ValueError(f"{len(self.sequences)} sequences for {len(self.user_ids)} users")
        if self.images is not None:
            expected = (len(self.item_ids), *self.images.shape[1:3], 3)
            if self.images.ndim != 4 or self.images.shape != expected or self.images.dtype != np.uint8:
                raise ValueError(f"images are {self.images.dtype}{self.images.shape}, expected uint8{expected}")
