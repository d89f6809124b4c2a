"""Table of the kinds of datasets, the only place where they are declared. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


@dataclass(frozen=True)
class Kind:
    """One kind of dataset, as ``--dataset`` names it.

    Attributes:
        name: value of ``--dataset``.
        summary: one line for ``list``.
        sign: pattern of a file that a folder of this kind has; None for generated data, which reads no folder.
        has_columns: its files are tables whose columns can be named with ``--user-column`` and the like.
        may_have_timestamps: its interactions may carry timestamps, which ``--split temporal`` needs.
    """

    name: str
    summary: str
    sign: str | None = None
    has_columns: bool = False
    may_have_timestamps: bool = False

    @property
    def in_files(self) -> bool:
        """True for data that are read from ``--data-dir``, False for generated data."""
        return self.sign is not None


_ALL = (
    Kind("shop", "generated shop with known truth (built in)"),
    Kind("amazon", "Amazon files as released with the IISAN paper (--data-dir)", "*users*.tsv"),
    Kind("table", "items.csv|parquet and interactions.csv|parquet (--data-dir)", "interactions.*", True, True),
    Kind("recbole", "RecBole's atomic files, .item and .inter (--data-dir)", "*.inter", True, True),
    Kind(
        "microlens",
        "MicroLens as released: *_titles|title_en|title.csv, *_pairs.csv, *_covers (--data-dir)",
        "*_pairs.csv",
        has_columns=True,
        may_have_timestamps=True,
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
GENERATED = "shop"
"""The one kind that is generated, and the default."""

# Type of a field that holds the name of a kind: pydantic checks it against the table.
if TYPE_CHECKING:
    KindName = str
else:
    KindName = Literal[tuple(KINDS)]
