"""Reader of the Amazon data as released with IISAN: two tab-separated files and a folder of pictures."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.data.cache.catalogue_store import IMAGES_FILE, cached_catalogue
from bench.data.catalogue import Catalogue
from bench.data.framing import Framing, PictureSize
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
"""Part of the cache key; increase it when the same files would give another catalogue."""


def load_amazon(
    data_dir: str | Path,
    image_dir: str | Path | None = None,
    image_size: PictureSize | None = None,
    policies: Policies = FAIL,
    *,
    needs_images: bool,
    progress: Progress | None = None,
) -> Catalogue:
    """Read `*items.tsv` and `*users*.tsv` of a folder and, if needed, the picture `<item>.jpg` of each item.

    Users with fewer than `MIN_LENGTH` items are left out, sequences are cut to their last `MAX_LENGTH` items, and items
    that are then in no sequence are left out. The result is stored in the cache, keyed by the content of the two files,
    the options, and names, sizes and times of the files in the image folder.

    Args:
        data_dir: folder of the two files.
        image_dir: folder of the pictures; None for `images/` in `data_dir`.
        image_size: height and width of the pictures in pixels, or their framing.
        policies: treatment of items whose picture is absent or cannot be read; "drop-item" applies before the items of
            users are counted.
        needs_images: False for a catalogue without pictures.
        progress: called with the numbers of pictures done and in all.

    Raises:
        UserError: something is wrong with files or options.
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
    key += [_folder_signature(pictures_from), Framing.of(size).key, policies.missing, policies.bad, PIL.__version__]

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
    """Log of interactions, without times, from the two files."""
    index = {item: place for place, item in enumerate(tables.item_ids)}
    items = Items(tables.item_ids, tables.titles, None, index, tables.entities[0], {})
    return Log(items, tables.user_ids, Ragged.of(tables.sequences), None, "number", {}, ())


def select(log: Log, users_path: Path, usable: NDArray[np.bool_] | None = None) -> Selection:
    """Leave out items that are not usable, then users with too few items, then interactions before the newest ones.

    Raises:
        UserError: no user is left; the message names the users file.
    """
    try:
        return selection.select(log, None, usable)
    except selection.NobodyLeft:  # the message of NobodyLeft names interactions, but the users file lists items
        raise UserError(f"{users_path}: no user has {MIN_LENGTH} items that can be used") from None


def _text_notes(tables: Tables) -> tuple[str, ...]:
    """Note for the report on titles with HTML entities, if there are any."""
    encoded, twice = tables.entities
    if not encoded:
        return ()
    more = f", {twice} of them encoded more than once" if twice else ""
    return (f"{encoded} of {len(tables.titles)} titles in the items file held HTML entities{more}; they were decoded.",)


def _checked_size(image_size: PictureSize | None) -> PictureSize:
    if image_size is None or not 1 <= Framing.of(image_size).size <= MAX_SIZE:
        raise UserError(f"image size: {image_size} is not between 1 and {MAX_SIZE} pixels")
    return image_size


def _folder_signature(folder: Path) -> str:
    """Digest of names, sizes and times of the files in a folder.

    A digest of the pictures themselves would read gigabytes at each start. The time of the last status change (ctime)
    is included because copying or touching a file cannot set it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images: choose another with --image-dir, or use --modality text")
    entries: list[tuple[str, int, int, int]] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    status = entry.stat()
                except OSError:  # a broken link: reported when the picture of its item is read
                    continue
                entries.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return digest_of(tuple(sorted(entries)))


def _check_names(tables: Tables) -> None:
    """Refuse item ids that are not file names or would lead out of the image folder."""
    for place, item in zip(tables.item_places, tables.item_ids, strict=True):
        if not is_file_name(item):
            raise UserError(f"{place}: item id {quoted(item)} cannot be the name of an image file")
