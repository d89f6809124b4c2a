"""The Amazon data as released with IISAN: two tab-separated files and a folder of pictures."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from bench.data.catalogue import Catalogue
from bench.data.images import (
    FAIL,
    KINDS,
    MAX_SIZE,
    BadImage,
    Kind,
    Policies,
    Progress,
    build_image_array,
    open_array,
    select_rows,
)
from bench.data.names import is_file_name
from bench.data.sequences import MAX_LENGTH, MIN_LENGTH
from bench.data.store import IMAGES_FILE, cached_catalogue, catalogue_digest, digest_of, npy_digest
from bench.data.tables import Selection, Tables, all_items, find_files, parse, quoted, read, select
from bench.errors import UserError

_VERSION = 2
"""Part of the cache key: goes up when the same files would give another catalogue."""
_WITHOUT: Mapping[Kind, str] = {"missing": "without an image file", "bad": "whose image file cannot be read"}


@dataclass(frozen=True, eq=False)
class _Pictures:
    """One picture for each used item of the selection."""

    selection: Selection
    path: Path
    """The array of pictures."""
    dropped: dict[str, int]
    notes: tuple[str, ...]


def load_amazon(
    data_dir: str | Path,
    image_dir: str | Path | None = None,
    image_size: int | None = None,
    policies: Policies = FAIL,
    *,
    needs_images: bool,
    progress: Progress | None = None,
) -> Catalogue:
    """Read `*items.tsv` and `*users*.tsv` of a folder and, if needed, the picture `<item>.jpg` of each item.

    Users with fewer than `MIN_LENGTH` items are left out, sequences keep their last `MAX_LENGTH` items, and items that
    then stand in no sequence are left out. Pictures come from `image_dir`, else from `images/` in the folder, are
    brought to `image_size` pixels (see `bench.data.images`), and `policies` says what becomes of items without one, or
    with one that cannot be read: "fail", "drop-item" (before the users are counted) or "mean-image".

    The result is kept in the cache, keyed by the content of the two files, these options, and name, size and times of
    the files in the image folder. Raises UserError for anything wrong with files or options.
    """
    folder = Path(data_dir)
    items_path, users_path = find_files(folder)
    items_bytes, users_bytes = read(items_path), read(users_path)
    key: list[str | int] = ["amazon", _VERSION, MIN_LENGTH, MAX_LENGTH, digest_of(items_bytes), digest_of(users_bytes)]
    if not needs_images:

        def build_text(_: Path) -> Catalogue:
            tables = parse(items_path, items_bytes, users_path, users_bytes)
            return _catalogue(tables, select(tables, users_path, all_items(tables)), None)

        return cached_catalogue(digest_of(*key), build_text)

    size = _checked_size(image_size)
    pictures_from = Path(image_dir) if image_dir is not None else folder / "images"
    key += [_folder_signature(pictures_from), size, policies.missing, policies.bad, PIL.__version__]

    def build(entry: Path) -> Catalogue:
        tables = parse(items_path, items_bytes, users_path, users_bytes)
        _check_names(tables)
        names = [pictures_from / f"{item}.jpg" for item in tables.item_ids]
        pictures = _pictures(tables, users_path, names, size, entry / IMAGES_FILE, policies, progress)
        return _catalogue(tables, pictures.selection, pictures)

    return cached_catalogue(digest_of(*key), build)


def _catalogue(tables: Tables, selection: Selection, pictures: _Pictures | None) -> Catalogue:
    new_index = np.full(len(tables.item_ids), -1, dtype=np.int32)
    new_index[selection.used] = np.arange(len(selection.used), dtype=np.int32)
    item_ids = tuple(tables.item_ids[item] for item in selection.used)
    titles = tuple(tables.titles[item] for item in selection.used)
    user_ids = tuple(tables.user_ids[user] for user in selection.users)
    sequences = tuple(new_index[sequence] for sequence in selection.sequences)
    pixels_digest = npy_digest(pictures.path) if pictures is not None else None
    return Catalogue(
        name="amazon",
        digest=catalogue_digest(item_ids, titles, user_ids, sequences, pixels_digest),
        item_ids=item_ids,
        titles=titles,
        images=open_array(pictures.path) if pictures is not None else None,
        user_ids=user_ids,
        sequences=sequences,
        dropped=selection.dropped | (pictures.dropped if pictures is not None else {}),
        notes=(*_text_notes(tables, titles), *(pictures.notes if pictures is not None else ())),
    )


def _text_notes(tables: Tables, titles: Sequence[str]) -> tuple[str, ...]:
    """What there is to say about the titles; nothing about plain ones that all differ."""
    encoded, twice = tables.entities
    notes = []
    if encoded:
        more = f", {twice} of them encoded more than once" if twice else ""
        notes.append(
            f"{encoded} of {len(tables.titles)} titles in the items file held HTML entities{more}; they were decoded."
        )
    if (different := len(set(titles))) < len(titles):
        notes.append(f"{len(titles)} items have {different} different titles: text alone cannot tell the others apart.")
    return tuple(notes)


def _checked_size(image_size: int | None) -> int:
    if image_size is None or not 1 <= image_size <= MAX_SIZE:
        raise UserError(f"image size: {image_size} is not between 1 and {MAX_SIZE} pixels")
    return image_size


def _folder_signature(folder: Path) -> str:
    """Names, sizes and times of a folder's files.

    Hashing the pictures themselves would read gigabytes at each start; the time of the last change of a file's state
    cannot be set by copying or touching it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images: give another with --image-dir, or use --modality text")
    entries: list[tuple[str, int, int, int]] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    status = entry.stat()
                except OSError:  # a link to nowhere or to itself: named when its item is asked for
                    continue
                entries.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return digest_of(tuple(sorted(entries)))


def _check_names(tables: Tables) -> None:
    """Refuse ids that would lead out of the image folder or are no file names."""
    for place, item in zip(tables.item_places, tables.item_ids, strict=True):
        if not is_file_name(item):
            raise UserError(f"{place}: item id {quoted(item)} cannot be the name of an image file")


def _pictures(
    tables: Tables,
    users_path: Path,
    names: Sequence[Path],
    size: int,
    out_path: Path,
    policies: Policies,
    progress: Progress | None,
) -> _Pictures:
    selection = select(tables, users_path, all_items(tables))
    wanted = selection.used
    if policies.drop:  # a dropped item lets an older one into the last items, which needs its picture too
        wanted = np.unique(np.concatenate([tables.sequences[user] for user in selection.users])).astype(np.int64)
    made = build_image_array([names[item] for item in wanted], size, out_path, policies, progress)
    notes = tuple(
        _image_note(kind, found, len(wanted), policies.of(kind)) for kind in KINDS if (found := made.of_kind(kind))
    )
    if not policies.drop:
        return _Pictures(selection, out_path, {}, notes)
    usable = all_items(tables)
    usable[wanted[~made.kept]] = False
    selection = select(tables, users_path, usable)
    kept = wanted[made.kept]
    if len(kept) != len(selection.used):
        select_rows(out_path, np.searchsorted(kept, selection.used))
    dropped = {f"items {_WITHOUT[kind]}": len(made.of_kind(kind)) for kind in policies.drop}
    dropped["interactions with these items"] = sum(int((~usable[sequence]).sum()) for sequence in tables.sequences)
    return _Pictures(selection, out_path, dropped, notes)


def _image_note(kind: Kind, found: Sequence[BadImage], of: int, policy: str) -> str:
    done = "were left out" if policy == "drop-item" else "have the mean image"
    return f"{len(found)} of {of} items {_WITHOUT[kind]} {done} (the first: {found[0].path.name}: {found[0].reason})."
