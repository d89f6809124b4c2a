"""Datasets in tables of one's own: from the files to a catalogue, kept in the cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.data.catalogue import Catalogue
from bench.data.columns import TableFile
from bench.data.cuts import Selection, Temporal, select
from bench.data.images import FAIL, KINDS, BadImage, Kind, Policies, build_image_array, open_array, select_rows
from bench.data.interactions import Items, Log, read_items, read_log
from bench.data.layouts import Layout, find_layout
from bench.data.moments import parse_moment
from bench.data.names import is_file_name
from bench.data.ragged import Ragged
from bench.data.sequences import MAX_LENGTH, MIN_LENGTH
from bench.data.store import IMAGES_FILE, Part, cached_catalogue, catalogue_digest, digest_of, file_digest, npy_digest
from bench.errors import UserError
from bench.table import naming

_VERSION = 1
"""Part of the cache key: goes up when the same files would give another catalogue."""
_WITHOUT: Mapping[Kind, str] = {"missing": "without an image file", "bad": "whose image file cannot be read"}


@dataclass(frozen=True)
class FilesConfig:
    """What to read and how to split it.

    Attributes:
        name: one of `bench.data.layouts.FORMATS`.
        columns: what a column is to us -> its name, where that is not the usual one.
        valid_from, test_from: both for a split in time; without them the last item tests, the one before validates.
    """

    name: str
    folder: Path
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_dir: str | None = None
    policies: Policies = FAIL
    valid_from: str | None = None
    test_from: str | None = None


@dataclass(frozen=True, eq=False)
class _Pictures:
    """One picture for each used item of the selection."""

    selection: Selection
    path: Path
    """The array of pictures."""
    dropped: Mapping[str, int]
    notes: tuple[str, ...]


def load_files(config: FilesConfig, image_size: int | None) -> Catalogue:
    """The catalogue of a dataset in tables; ``image_size`` is None when the pictures are not needed.

    Kept in the cache, keyed by the content of the tables, the options, and name, size and times of the pictures.

    Raises:
        UserError: for anything wrong with files or options.
    """
    layout = find_layout(config.name, config.folder, config.columns, config.image_dir)
    key: list[Part] = ["files", _VERSION, MIN_LENGTH, MAX_LENGTH, config.name, config.valid_from, config.test_from]
    key += [part for file in (layout.items, layout.interactions) for part in _identity(file)]
    if image_size is not None:
        key += [_signature(layout.pictures), image_size, config.policies.missing, config.policies.bad]
        key.append(PIL.__version__)

    def build(entry: Path) -> Catalogue:
        log = read_log(layout.items, layout.interactions)
        rule = _rule(config, log, layout)
        if image_size is None:
            return _catalogue(config.name, log, _selected(log, rule, layout), None)
        pictures = _pictures(log, rule, layout, image_size, entry / IMAGES_FILE, config.policies)
        return _catalogue(config.name, log, pictures.selection, pictures)

    return cached_catalogue(digest_of(*key), build)


def image_paths(config: FilesConfig, item_ids: Sequence[str]) -> tuple[Path, list[Path]]:
    """The folder of the pictures, and where those of these items should be if there is one. Raises UserError."""
    layout = find_layout(config.name, config.folder, config.columns, config.image_dir)
    if not os.path.isdir(layout.pictures):
        return layout.pictures, []
    items = read_items(layout.items)
    places = np.array([items.rows[item] for item in item_ids], dtype=np.int64)
    return layout.pictures, _image_paths(items, layout, places)


def _identity(file: TableFile) -> list[Part]:
    """What of a table decides about the catalogue."""
    try:
        content = file_digest(file.path)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read: {error.strerror}") from error
    return [content, file.path.suffix, tuple(f"{role}={name}" for role, name in sorted(file.columns.items()))]


def _signature(folder: Path) -> str:
    """Names, sizes and times of the files in a folder and those below: hashing them would read gigabytes each time."""
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images; --image-dir names another, --modality text needs none")
    entries = []
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(base, name)
            try:
                status = os.stat(path)
            except OSError:  # a link to nowhere: named when its item is asked for
                continue
            entries.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return digest_of(tuple(entries))


def _rule(config: FilesConfig, log: Log, layout: Layout) -> Temporal | None:
    if config.valid_from is None or config.test_from is None:
        return None
    if log.times is None:
        raise UserError(
            f"{layout.interactions.path}: no timestamps, so --split temporal cannot be; --timestamp-column names them"
        )
    moments = [
        parse_moment(text, log.kind, option)
        for text, option in ((config.valid_from, "--valid-from"), (config.test_from, "--test-from"))
    ]
    if moments[0] >= moments[1]:
        raise UserError(f"--valid-from {config.valid_from}: must be before --test-from {config.test_from}")
    return Temporal(*moments)


def _selected(log: Log, rule: Temporal | None, layout: Layout, usable: NDArray[np.bool_] | None = None) -> Selection:
    with naming(layout.interactions.path):
        return select(log, rule, usable)


def _catalogue(name: str, log: Log, selection: Selection, pictures: _Pictures | None) -> Catalogue:
    new_index = np.full(len(log.items.ids), -1, dtype=np.int32)
    new_index[selection.used] = np.arange(len(selection.used), dtype=np.int32)
    item_ids = tuple(log.items.ids[item] for item in selection.used.tolist())
    titles = tuple(log.items.titles[item] for item in selection.used.tolist())
    user_ids = tuple(log.user_ids[user] for user in selection.users.tolist())
    sequences = Ragged(new_index[selection.sequences.flat], selection.sequences.offsets)
    pixels_digest = npy_digest(pictures.path) if pictures is not None else None
    reasons = {**log.dropped, **selection.dropped, **(pictures.dropped if pictures is not None else {})}
    return Catalogue(
        name=name,
        digest=catalogue_digest(item_ids, titles, user_ids, sequences, pixels_digest, selection.cuts),
        item_ids=item_ids,
        titles=titles,
        images=open_array(pictures.path) if pictures is not None else None,
        user_ids=user_ids,
        sequences=sequences,
        dropped={reason: count for reason, count in reasons.items() if count},
        notes=(*_title_notes(log.items, titles), *log.notes, *(pictures.notes if pictures is not None else ())),
        cuts=selection.cuts,
    )


def _title_notes(items: Items, titles: Sequence[str]) -> tuple[str, ...]:
    notes = []
    if items.encoded:
        notes.append(f"{items.encoded} of {len(items.titles)} titles held HTML entities; they were decoded.")
    if (different := len(set(titles))) < len(titles):
        notes.append(f"{len(titles)} items have {different} different titles: text alone cannot tell the others apart.")
    return tuple(notes)


def _image_paths(items: Items, layout: Layout, places: NDArray[np.int64]) -> list[Path]:
    """The files of the items at these places: as the image column says, or named by the item."""
    found = []
    for place in places.tolist():
        item, name = items.ids[place], items.pictures[place] if items.pictures is not None else ""
        relative = PurePosixPath(name or f"{item}.jpg")
        if not all(map(is_file_name, relative.parts)) or (not name and "/" in item):
            raise UserError(
                f"{layout.items.path}: item {ascii(item)[:70]}: {ascii(str(relative))[:70]} cannot be the name of an "
                "image file below the folder"
            )
        found.append(layout.pictures / relative)
    return found


def _pictures(
    log: Log, rule: Temporal | None, layout: Layout, size: int, out_path: Path, policies: Policies
) -> _Pictures:
    """As `bench.data.amazon` does it: dropped items leave before the users are counted."""
    selection = _selected(log, rule, layout)
    wanted = selection.used
    if policies.drop:  # a dropped item lets an older one into the sequence, which needs its picture too
        users = selection.users
        whole = log.sequences.slices(users, np.zeros_like(users), log.sequences.lengths[users])
        wanted = np.unique(whole.flat).astype(np.int64)
    made = build_image_array(_image_paths(log.items, layout, wanted), size, out_path, policies, folder=layout.pictures)
    notes = tuple(
        _image_note(kind, found, len(wanted), policies.of(kind)) for kind in KINDS if (found := made.of_kind(kind))
    )
    if not policies.drop:
        return _Pictures(selection, out_path, {}, notes)
    usable = np.ones(len(log.items.ids), dtype=np.bool_)
    usable[wanted[~made.kept]] = False
    selection = _selected(log, rule, layout, usable)
    kept = wanted[made.kept]
    if len(kept) != len(selection.used):
        select_rows(out_path, np.searchsorted(kept, selection.used))
    dropped = {f"items {_WITHOUT[kind]}": len(made.of_kind(kind)) for kind in policies.drop}
    dropped["interactions with these items"] = int((~usable[log.sequences.flat]).sum())
    return _Pictures(selection, out_path, dropped, notes)


def _image_note(kind: Kind, found: Sequence[BadImage], of: int, policy: str) -> str:
    done = "were left out" if policy == "drop-item" else "have the mean image"
    return f"{len(found)} of {of} items {_WITHOUT[kind]} {done} (the first: {found[0].path.name}: {found[0].reason})."
