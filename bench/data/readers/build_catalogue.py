"""From a log of interactions, and the pictures of its items, to a catalogue: the end of every way to read files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import catalogue_digest, npy_digest
from bench.data.catalogue import Catalogue
from bench.data.ragged import Ragged
from bench.data.readers.images import (
    KINDS,
    BadImage,
    Kind,
    Policies,
    Progress,
    build_image_array,
    open_array,
    select_rows,
)
from bench.data.readers.interactions import Log
from bench.data.readers.selection import Selection

_WITHOUT: Mapping[Kind, str] = {"missing": "without an image file", "bad": "whose image file cannot be read"}


@dataclass(frozen=True, eq=False)
class Pictures:
    """One picture for each used item of the selection."""

    selection: Selection
    path: Path
    """The array of pictures."""
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def with_pictures(
    log: Log,
    select: Callable[[NDArray[np.bool_] | None], Selection],
    paths_of: Callable[[NDArray[np.int64]], Sequence[Path]],
    size: int,
    out_path: Path,
    policies: Policies,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Pictures:
    """Reads the pictures of the items that are used; items dropped for want of one leave before users are counted.

    Args:
        select: which items may be used, (items,), None for all -> the users and interactions that are left.
        paths_of: items as places in the log -> their files.
        folder: as `build_image_array` takes it.

    Raises:
        UserError: as `select`, `paths_of` and `build_image_array`.
    """
    selection = select(None)
    wanted = selection.used
    if policies.drop:  # a dropped item lets an older one into the sequence, which needs its picture too
        users = selection.users
        whole = log.sequences.slices(users, np.zeros_like(users), log.sequences.lengths[users])
        wanted = np.unique(whole.flat).astype(np.int64)
    made = build_image_array(paths_of(wanted), size, out_path, policies, progress, folder)
    notes = tuple(_note(kind, found, len(wanted), policies.of(kind)) for kind in KINDS if (found := made.of_kind(kind)))
    if not policies.drop:
        return Pictures(selection, out_path, {}, notes)
    usable = np.ones(len(log.items.ids), dtype=np.bool_)
    usable[wanted[~made.kept]] = False
    selection = select(usable)
    kept = wanted[made.kept]
    if len(kept) != len(selection.used):
        select_rows(out_path, np.searchsorted(kept, selection.used))
    dropped = {f"items {_WITHOUT[kind]}": len(made.of_kind(kind)) for kind in policies.drop}
    dropped["interactions with these items"] = int((~usable[log.sequences.flat]).sum())
    return Pictures(selection, out_path, dropped, notes)


def _note(kind: Kind, found: Sequence[BadImage], of: int, policy: str) -> str:
    done = "were left out" if policy == "drop-item" else "have the mean image"
    return f"{len(found)} of {of} items {_WITHOUT[kind]} {done} (the first: {found[0].path.name}: {found[0].reason})."


def catalogue_of(
    name: str, log: Log, selection: Selection, pictures: Pictures | None, title_notes: Iterable[str]
) -> Catalogue:
    """What is selected of a log; the reasons for leaving out the rest are those of log, selection and pictures.

    Args:
        title_notes: what there is to say about the items file's titles.
    """
    new_index = np.full(len(log.items.ids), -1, dtype=np.int32)
    new_index[selection.used] = np.arange(len(selection.used), dtype=np.int32)
    item_ids = tuple(log.items.ids[item] for item in selection.used.tolist())
    titles = tuple(log.items.titles[item] for item in selection.used.tolist())
    user_ids = tuple(log.user_ids[user] for user in selection.users.tolist())
    sequences = Ragged(new_index[selection.sequences.flat], selection.sequences.offsets)
    pixels_digest = npy_digest(pictures.path) if pictures is not None else None
    return Catalogue(
        name=name,
        digest=catalogue_digest(item_ids, titles, user_ids, sequences, pixels_digest, selection.cuts),
        item_ids=item_ids,
        titles=titles,
        images=open_array(pictures.path) if pictures is not None else None,
        user_ids=user_ids,
        sequences=sequences,
        dropped={**log.dropped, **selection.dropped, **(pictures.dropped if pictures is not None else {})},
        notes=(
            *title_notes,
            *_alike(titles),
            *log.notes,
            *(pictures.notes if pictures is not None else ()),
        ),
        cuts=selection.cuts,
    )


def _alike(titles: Sequence[str]) -> list[str]:
    if (different := len(set(titles))) == len(titles):
        return []
    return [f"{len(titles)} items have {different} different titles: text alone cannot tell the others apart."]
