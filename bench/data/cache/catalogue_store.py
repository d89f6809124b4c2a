"""Cache of converted catalogues, named by digests: written atomically, checked before they are served."""

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
    """A cache entry is absent or damaged and must be built again."""


def array_digest(array: NDArray[Any]) -> str:
    """SHA-256 of type, shape and values of an array; equal to `npy_digest` of the file that it is saved to."""
    hasher = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    flat = np.ascontiguousarray(array).reshape(-1)
    step = max(1, CHUNK_BYTES // array.dtype.itemsize)
    for start in range(0, flat.size, step):
        hasher.update(flat[start : start + step].data)
    return hasher.hexdigest()


def npy_digest(path: Path) -> str:
    """`array_digest` of an .npy file by plain reads: a map would add the whole file to the process's peak memory.

    Raises:
        ValueError: not an .npy file as this program writes it, with plain values in C order.
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
    """Digest of the content of a catalogue; `images` may be given as their `array_digest`."""
    rows = Ragged.of(sequences)
    pixels = array_digest(images) if isinstance(images, np.ndarray) else images
    split = () if cuts is None else (array_digest(cuts),)
    arrays = array_digest(rows.flat), array_digest(rows.offsets)
    return digest_of(tuple(item_ids), tuple(titles), tuple(user_ids), *arrays, pixels, *split)


def save_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Write a catalogue, except its `truth`, into a folder. The table with the digests of the files is written last.

    Images that are a memory map of `folder`/images.npy are not written again. Raises OSError.
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
        "warnings": catalogue.warnings,
        "arrays": {name: file_digest(folder / name) for name in sorted(files)},
    }
    text = json.dumps(table)
    with atomic_path(folder / _TABLE_FILE) as temporary:
        # The first line is the digest of the second.
        temporary.write_text(f"{digest_of(text)}\n{text}\n", encoding="ascii", newline="\n")


def _is_map_of(array: NDArray[Any], path: Path) -> bool:
    filename = array.filename if isinstance(array, np.memmap) else None
    return filename is not None and path.exists() and os.path.samefile(filename, path)


def load_catalogue(folder: Path) -> Catalogue:
    """Read a catalogue that `save_catalogue` wrote, images memory-mapped, after checking the digest of every file.

    Raises:
        CacheError: the entry is absent, damaged or of another version.
    """
    try:
        stored, text, rest = (folder / _TABLE_FILE).read_bytes().decode("ascii").split("\n")
        if digest_of(text) != stored or rest:
            raise ValueError(f"{_TABLE_FILE}: checksum mismatch")
        table = json.loads(text)
        if table["schema"] != _SCHEMA:
            raise ValueError(f"{_TABLE_FILE}: schema {table['schema']} instead of {_SCHEMA}")
        for name, digest in table["arrays"].items():
            if file_digest(folder / name) != digest:
                raise ValueError(f"{name}: checksum mismatch")
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
        warnings=tuple(table.get("warnings", ())),  # entries of earlier versions have none
    )


def _mapped(path: Path) -> NDArray[np.uint8]:
    """Read-only memory map of an array of pictures, with a shared lock on its file as long as the map lives."""
    with open(str(path), "rb") as file:
        locks.share(file)
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{path}: not an .npy file of version 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.uint8:
            raise ValueError(f"{path}: not an array of pictures (uint8)")
        return np.memmap(file, dtype=np.uint8, mode="r", offset=file.tell(), shape=shape)


def cached_catalogue(key: str, build: Callable[[Path], Catalogue]) -> Catalogue:
    """Serve the catalogue stored under `key`, or build and store it.

    A damaged entry is built again, with a warning. A cache that cannot be written is a warning too, and the next start
    builds again.

    Args:
        key: digest of everything that the catalogue depends on.
        build: gets the entry's folder, where it may write `IMAGES_FILE`, and returns the catalogue.
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
                _log.warning("damaged cache entry is built again: %s", error)
        catalogue = build(folder)
        try:
            save_catalogue(catalogue, folder)
        except OSError as error:
            _log.warning("%s: the converted data cannot be kept: %s", folder, error.strerror or error)
        eviction.shrink(cache_dir(), folder)
        return catalogue


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time build an entry; without a lock, warn and go on."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.exclusive(folder / eviction.CATALOGUE_LOCK))
        except OSError:
            _log.warning("%s: no lock: several processes may do the same work", folder)
        yield
