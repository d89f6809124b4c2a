"""Reader of datasets that consist of tables: makes a catalogue from the files and stores it in the cache."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import IMAGES_FILE, cached_catalogue
from bench.data.catalogue import Catalogue
from bench.data.framing import Framing, PictureSize
from bench.data.readers.build_catalogue import Pictures, catalogue_of, with_pictures
from bench.data.readers.file_layouts import Layout, find_layout
from bench.data.readers.file_names import is_file_name
from bench.data.readers.images import FAIL, Policies
from bench.data.readers.interactions import Items, Log, read_items, read_log
from bench.data.readers.selection import Selection, Temporal, select
from bench.data.readers.tables.columns import TableFile
from bench.data.readers.tables.row_meaning import RATING
from bench.data.readers.tables.timestamps import parse_moment
from bench.data.splits import MAX_LENGTH, MIN_LENGTH
from bench.utils.errors import UserError, naming
from bench.utils.files import Part, digest_of, file_digest

_VERSION = 2
"""Part of the cache key; increase it when the same files would give another catalogue."""


@dataclass(frozen=True)
class FilesConfig:
    """Files of a dataset that consists of tables, and its split.

    Attributes:
        name: key of `bench.data.readers.file_layouts.LAYOUTS`.
        folder: folder of the tables.
        columns: role of a column -> its name, for columns that do not have the usual name.
        image_dir: folder of the pictures; None for the usual one.
        policies: treatment of items whose picture is absent or cannot be read.
        valid_from, test_from: first moments of validation and test of a split in time; None for leave-one-out.
        min_rating: least rating of the interactions that are kept; None to keep all.
    """

    name: str
    folder: Path
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image_dir: str | None = None
    policies: Policies = FAIL
    valid_from: str | None = None
    test_from: str | None = None
    min_rating: float | None = None


def load_files(config: FilesConfig, image_size: PictureSize | None) -> Catalogue:
    """Catalogue of a dataset that consists of tables.

    The catalogue is stored in the cache, keyed by the content of the tables, the options, and names, sizes and times of
    the pictures.

    Args:
        config: files, columns and split.
        image_size: height and width of the pictures in pixels, or their framing; None if they are not needed.

    Raises:
        UserError: something is wrong with files or options.
    """
    layout = find_layout(config.name, config.folder, config.columns, config.image_dir)
    if config.min_rating is not None and RATING not in layout.interactions.columns:
        raise UserError(
            f"{layout.interactions.path}: no column 'rating' for --min-rating; name it with --rating-column"
        )
    key: list[Part] = ["files", _VERSION, MIN_LENGTH, MAX_LENGTH, config.name, config.valid_from, config.test_from]
    key.append(config.min_rating)
    key += [part for file in (layout.items, layout.interactions) for part in _identity(file)]
    if image_size is not None:
        key += [_signature(layout.pictures), Framing.of(image_size).key, config.policies.missing, config.policies.bad]
        key.append(PIL.__version__)

    def build(entry: Path) -> Catalogue:
        log = read_log(layout.items, layout.interactions, config.min_rating)
        rule = _rule(config, log, layout)

        def choose(usable: NDArray[np.bool_] | None) -> Selection:
            with naming(layout.interactions.path):
                return select(log, rule, usable)

        if image_size is None:
            return _catalogue(config.name, log, choose(None), None)
        paths_of = partial(_image_paths, log.items, layout)
        path, folder = entry / IMAGES_FILE, layout.pictures
        pictures = with_pictures(log, choose, paths_of, image_size, path, config.policies, folder=folder)
        return _catalogue(config.name, log, pictures.selection, pictures)

    return cached_catalogue(digest_of(*key), build)


def image_paths(config: FilesConfig, item_ids: Sequence[str]) -> tuple[Path, list[Path]]:
    """Folder of the pictures, and the expected files of the given items if the folder exists. Raises UserError."""
    layout = find_layout(config.name, config.folder, config.columns, config.image_dir)
    if not os.path.isdir(layout.pictures):
        return layout.pictures, []
    items = read_items(layout.items)
    places = np.array([items.rows[item] for item in item_ids], dtype=np.int64)
    return layout.pictures, _image_paths(items, layout, places)


def _identity(file: TableFile) -> list[Part]:
    """Parts of the cache key from a table: its content, format and columns."""
    try:
        content = file_digest(file.path)
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read: {error.strerror}") from error
    columns = tuple(f"{role}={name}" for role, name in sorted(file.columns.items()))
    return [content, file.path.suffix, columns, *([("no header", file.quoted)] if file.names else [])]


def _signature(folder: Path) -> str:
    """Digest of names, sizes and times of the files in a folder and below.

    A digest of the pictures themselves would read gigabytes at each start.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images: choose another with --image-dir, or use --modality text")
    entries = []
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(base, name)
            try:
                status = os.stat(path)
            except OSError:  # a broken link: reported when the picture of its item is read
                continue
            entries.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return digest_of(tuple(entries))


def _rule(config: FilesConfig, log: Log, layout: Layout) -> Temporal | None:
    if config.valid_from is None or config.test_from is None:
        return None
    if log.times is None:
        raise UserError(
            f"{layout.interactions.path}: no timestamps for --split temporal; name their column with --timestamp-column"
        )
    moments = [
        parse_moment(text, log.kind, option)
        for text, option in ((config.valid_from, "--valid-from"), (config.test_from, "--test-from"))
    ]
    if moments[0] >= moments[1]:
        raise UserError(f"--valid-from {config.valid_from}: must be before --test-from {config.test_from}")
    return Temporal(*moments)


def _catalogue(name: str, log: Log, selection: Selection, pictures: Pictures | None) -> Catalogue:
    found = log.items
    encoded = f"{found.encoded} of {len(found.titles)} titles held HTML entities; they were decoded."
    made = catalogue_of(name, log, selection, pictures, [encoded] if found.encoded else [])
    return dataclasses.replace(made, dropped={reason: count for reason, count in made.dropped.items() if count})


def _image_paths(items: Items, layout: Layout, places: NDArray[np.int64]) -> list[Path]:
    """Picture files of the items at these places: from the image column, else named by the item."""
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
