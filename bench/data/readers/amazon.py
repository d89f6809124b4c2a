"""The Amazon data as released with IISAN: two tab-separated files and a folder of pictures."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import IMAGES_FILE, cached_catalogue
from bench.data.catalogue import Catalogue
from bench.data.ragged import Ragged
from bench.data.readers import selection
from bench.data.readers.amazon_files import Tables, find_files, parse, quoted, read
from bench.data.readers.build_catalogue import catalogue_of, with_pictures
from bench.data.readers.file_names import is_file_name
from bench.data.readers.images import FAIL, MAX_SIZE, Policies, Progress
from bench.data.readers.interactions import Items, Log
from bench.data.readers.selection import Selection
from bench.data.splits import MAX_LENGTH, MIN_LENGTH
from bench.utils.errors import UserError
from bench.utils.files import digest_of

_VERSION = 2
"""Part of the cache key: goes up when the same files would give another catalogue."""


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
    brought to `image_size` pixels, and `policies` says what becomes of items without one, or
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
            log = log_of(tables)
            return catalogue_of("amazon", log, select(log, users_path), None, _text_notes(tables))

        return cached_catalogue(digest_of(*key), build_text)

    size = _checked_size(image_size)
    pictures_from = Path(image_dir) if image_dir is not None else folder / "images"
    key += [_folder_signature(pictures_from), size, policies.missing, policies.bad, PIL.__version__]

    def build(entry: Path) -> Catalogue:
        tables = parse(items_path, items_bytes, users_path, users_bytes)
        _check_names(tables)
        log = log_of(tables)

        def paths_of(items: NDArray[np.int64]) -> list[Path]:
            return [pictures_from / f"{log.items.ids[item]}.jpg" for item in items.tolist()]

        choose = partial(select, log, users_path)
        pictures = with_pictures(log, choose, paths_of, size, entry / IMAGES_FILE, policies, progress)
        return catalogue_of("amazon", log, pictures.selection, pictures, _text_notes(tables))

    return cached_catalogue(digest_of(*key), build)


def log_of(tables: Tables) -> Log:
    """The two files as a log without times."""
    index = {item: place for place, item in enumerate(tables.item_ids)}
    items = Items(tables.item_ids, tables.titles, None, index, tables.entities[0], {})
    return Log(items, tables.user_ids, Ragged.of(tables.sequences), None, "number", {}, ())


def select(log: Log, users_path: Path, usable: NDArray[np.bool_] | None = None) -> Selection:
    """Leave out items that are not usable, then short users, then what is older than the newest items.

    Raises:
        UserError: names the users file; nobody is left.
    """
    try:
        return selection.select(log, None, usable)
    except selection.NobodyLeft:  # that file lists items, and knows no interactions
        raise UserError(f"{users_path}: no user has {MIN_LENGTH} items that can be used") from None


def _text_notes(tables: Tables) -> tuple[str, ...]:
    """What there is to say about the titles of the file; nothing about plain ones."""
    encoded, twice = tables.entities
    if not encoded:
        return ()
    more = f", {twice} of them encoded more than once" if twice else ""
    return (f"{encoded} of {len(tables.titles)} titles in the items file held HTML entities{more}; they were decoded.",)


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
