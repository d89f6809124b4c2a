"""Converted copies on disk, named by digests: written whole or not at all, checked before they are served."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.cache import eviction
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.data.ragged import Ragged
from bench.utils import locks
from bench.utils.files import CHUNK_BYTES, atomic_path, digest_of, file_digest

IMAGES_FILE, _TABLE_FILE = eviction.CATALOGUE_MAPPED, eviction.CATALOGUE_TABLE
_ITEMS_FILE, _OFFSETS_FILE, _CUTS_FILE = "sequences.npy", "offsets.npy", "cuts.npy"
_SCHEMA = 1

_log = logging.getLogger(__name__)


class CacheError(Exception):
    """There is no cache entry, or what is there is not what was written: build it again."""


def array_digest(array: NDArray[Any]) -> str:
    """Sha256 of an array's type, shape and values; the same as `npy_digest` of the file it is saved to."""
    hasher = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, CHUNK_BYTES // array.dtype.itemsize)
    for start in range(0, flat.size, step):
        hasher.update(flat[start : start + step].data)
    return hasher.hexdigest()


def npy_digest(path: Path) -> str:
    """`array_digest` of an .npy file by plain reads: mapping it would add the whole file to the process's peak memory.

    For files that this program wrote: raises ValueError if the values are not plain or not in C order.
    """
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: not an .npy file of version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        if fortran or dtype.hasobject:
            raise ValueError(f"{path}: not plain values in C order")
        hasher = hashlib.sha256(f"{dtype.str}{shape}".encode())
        while piece := file.read(CHUNK_BYTES):
            hasher.update(piece)
    return hasher.hexdigest()


def catalogue_digest(
    item_ids: Sequence[str],
    titles: Sequence[str],
    user_ids: Sequence[str],
    sequences: Sequence[NDArray[np.int32]],
    images: NDArray[np.uint8] | str | None,
    cuts: NDArray[np.int32] | None = None,
) -> str:
    """The digest that names a catalogue's content; `images` may be given by its own digest."""
    rows = Ragged.of(sequences)
    pixels = array_digest(images) if isinstance(images, np.ndarray) else images
    split = () if cuts is None else (array_digest(cuts),)
    arrays = array_digest(rows.flat), array_digest(rows.offsets)
    return digest_of(tuple(item_ids), tuple(titles), tuple(user_ids), *arrays, pixels, *split)


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Write a catalogue without its truth; the table with the digests of the other files comes last.

    Images that are already a memory map of `folder`/images.npy stay as they are. Raises OSError.
    """
    rows = Ragged.of(catalogue.sequences)
    arrays: dict[str, NDArray[Any]] = {_ITEMS_FILE: rows.flat, _OFFSETS_FILE: rows.offsets}
    if catalogue.cuts is not None:
        arrays[_CUTS_FILE] = catalogue.cuts
    if catalogue.images is not None and not _is_map_of(catalogue.images, folder / IMAGES_FILE):
        arrays[IMAGES_FILE] = np.ascontiguousarray(catalogue.images)
    for name, array in arrays.items():
        with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
            np.save(file, array, allow_pickle=False)
    files = {*arrays} | ({IMAGES_FILE} if catalogue.images is not None else set())
    table = {
        "schema": _SCHEMA,
        "name": catalogue.name,
        "digest": catalogue.digest,
        "item_ids": catalogue.item_ids,
        "titles": catalogue.titles,
        "user_ids": catalogue.user_ids,
        "dropped": catalogue.dropped,
        "notes": catalogue.notes,
        "arrays": {name: file_digest(folder / name) for name in sorted(files)},
    }
    text = json.dumps(table)
    with atomic_path(folder / _TABLE_FILE) as temporary:
        # First line: what the second must hash to.
        temporary.write_text(f"{digest_of(text)}\n{text}\n", encoding="ascii", newline="\n")


def _is_map_of(array: NDArray[Any], path: Path) -> bool:
    filename = array.filename if isinstance(array, np.memmap) else None
    return filename is not None and path.exists() and os.path.samefile(filename, path)


def load_catalogue(folder: Path) -> Catalogue:
    """Read what `save_catalogue` wrote, images memory-mapped; every byte is checked against its stored digest first.

    Raises CacheError if the entry is absent, damaged or of another version.
    """
    try:
        stored, text, rest = (folder / _TABLE_FILE).read_bytes().decode("ascii").split("\n")
        if digest_of(text) != stored or rest:
            raise ValueError(f"{_TABLE_FILE} is not what was written")
        table = json.loads(text)
        if table["schema"] != _SCHEMA:
            raise ValueError(f"schema {table['schema']}, not {_SCHEMA}")
        for name, digest in table["arrays"].items():
            if file_digest(folder / name) != digest:
                raise ValueError(f"{name} is not what was written")
        flat = np.load(folder / _ITEMS_FILE, allow_pickle=False)
        offsets = np.load(folder / _OFFSETS_FILE, allow_pickle=False)
        cuts = np.load(folder / _CUTS_FILE, allow_pickle=False) if _CUTS_FILE in table["arrays"] else None
        images = None
        if IMAGES_FILE in table["arrays"]:
            images = _mapped(folder / IMAGES_FILE)
    except (OSError, ValueError, KeyError) as error:
        raise CacheError(f"{folder}: {error}") from error
    return Catalogue(
        name=table["name"],
        digest=table["digest"],
        item_ids=tuple(table["item_ids"]),
        titles=tuple(table["titles"]),
        images=images,
        user_ids=tuple(table["user_ids"]),
        sequences=Ragged(flat, offsets),
        cuts=cuts,
        dropped=table["dropped"],
        notes=tuple(table["notes"]),
    )


def _mapped(path: Path) -> NDArray[np.uint8]:
    """A read-only map of pictures that this program wrote; while it lives the file is marked as in use."""
    with open(str(path), "rb") as file:
        locks.share(file)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: not an .npy file of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8:
            raise ValueError(f"{path}: not pictures")
        return np.memmap(file, dtype=np.uint8, mode="r", offset=file.tell(), shape=shape)


def cached_catalogue(key: str, build: Callable[[Path], Catalogue]) -> Catalogue:
    """Serve the catalogue kept under `key`, or build it and keep it.

    `build` gets the entry's folder and may put `IMAGES_FILE` there. A damaged entry is built again; a cache that cannot
    be written costs the next start some time and this one nothing but a warning.
    """
    folder = cache_dir() / eviction.CATALOGUES / key
    with suppress(CacheError):
        served = load_catalogue(folder)
        eviction.touch(folder / _TABLE_FILE)
        return served
    with _locked(folder):
        try:
            return load_catalogue(folder)  # another process may have built it meanwhile
        except CacheError as error:
            if os.path.exists(folder / _TABLE_FILE):
                _log.warning("damaged cache entry, built again: %s", error)
        catalogue = build(folder)
        try:
            save_catalogue(catalogue, folder)
        except OSError as error:
            _log.warning("the converted data cannot be kept in %s: %s", folder, error.strerror or error)
        eviction.shrink(cache_dir(), folder)
        return catalogue


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build an entry; where no lock can be had, build all the same."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.exclusive(folder / eviction.CATALOGUE_LOCK))
        except OSError:
            _log.warning("no lock in %s: several processes may do the same work", folder)
        yield
