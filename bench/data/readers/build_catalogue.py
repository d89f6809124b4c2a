"""Last step of every reader: a catalogue from a log of interactions and the pictures of its items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import catalogue_digest, npy_digest
from bench.data.catalogue import Catalogue
from bench.data.framing import PictureSize
from bench.data.ragged import Ragged
from bench.data.readers.images import (
    PROBLEMS,
    BadImage,
    Policies,
    Problem,
    Progress,
    build_image_array,
    open_array,
    select_rows,
)
from bench.data.readers.interactions import Log
from bench.data.readers.selection import Selection

_WITHOUT: Mapping[Problem, str] = {"missing": "without an image file", "bad": "whose image file cannot be read"}


@dataclass(frozen=True, eq=False)
class Pictures:
    """Array of one picture per used item of a selection."""

    selection: Selection
    path: Path
    """The .npy file of the pictures, one per item of `selection.used`."""
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def with_pictures(
    log: Log,
    select: Callable[[NDArray[np.bool_] | None], Selection],
    paths_of: Callable[[NDArray[np.int64]], Sequence[Path]],
    size: PictureSize,
    out_path: Path,
    policies: Policies,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> Pictures:
    """Reads the pictures of the items that are used. Items dropped for their picture are left out before users are.

    Args:
        log: all interactions.
        select: mask of usable items, (items,), or None for all -> users and interactions that are left.
        paths_of: places of items in the log -> their picture files.
        size: height and width of the pictures in pixels, or their framing.
        out_path: .npy file to write.
        policies: treatment of items whose picture is absent or cannot be read.
        progress: called with the numbers of pictures done and in all.
        folder: folder that links may not lead out of (see `build_image_array`).

    Raises:
        UserError: raised by `select`, `paths_of` or `build_image_array`.
    """
    selection = select(None)
    wanted = selection.used
    if policies.drop:  # a dropped item lets an older item into the sequence, whose picture is needed too
        users = selection.users
        whole = log.sequences.slices(users, np.zeros_like(users), log.sequences.lengths[users])
        wanted = np.unique(whole.flat).astype(np.int64)
    made = build_image_array(paths_of(wanted), size, out_path, policies, progress, folder)
    notes = tuple(
        _note(kind, found, len(wanted), policies.of(kind)) for kind in PROBLEMS if (found := made.of_kind(kind))
    )
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


def _note(kind: Problem, found: Sequence[BadImage], of: int, policy: str) -> str:
    done = "were left out" if policy == "drop-item" else "have the mean image"
    return (
        f"{len(found)} of {of} items {_WITHOUT[kind]} {done} (the first: {found[0].path.name}: {found[0].explained})."
    )


def catalogue_of(
    name: str, log: Log, selection: Selection, pictures: Pictures | None, title_notes: Iterable[str]
) -> Catalogue:
    """Catalogue of the selected users, items and interactions of a log.

    Args:
        name: kind of the dataset.
        log: all interactions.
        selection: users and interactions that are left.
        pictures: pictures of the items of the selection; None for a catalogue without pictures.
        title_notes: notes for the report on the titles of the items file.
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
            *_equal_titles_note(titles),
            *log.notes,
            *(pictures.notes if pictures is not None else ()),
        ),
        cuts=selection.cuts,
        warnings=log.warnings,
    )


def _equal_titles_note(titles: Sequence[str]) -> list[str]:
    if (different := len(set(titles))) == len(titles):
        return []
    return [f"{len(titles)} items have {different} different titles: text alone cannot tell the others apart."]
