"""The Amazon data as released with IISAN: two tab-separated files and a folder of pictures."""

import fnmatch
import html
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.entities import html5
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from bench.data.catalogue import Catalogue
from bench.data.images import (
    MAX_SIZE,
    MISSING_IMAGES,
    MissingImages,
    Progress,
    build_image_array,
    open_array,
    select_rows,
)
from bench.data.sequences import MAX_LENGTH, MIN_LENGTH
from bench.data.store import IMAGES_FILE, cached_catalogue, catalogue_digest, digest_of, npy_digest
from bench.errors import UserError

_VERSION = 1
"""Part of the cache key: goes up when the same files would give another catalogue."""
_ENTITY = re.compile(r"&(?:(#\d+|#[xX][0-9A-Fa-f]+|[A-Za-z][A-Za-z0-9]*);|(quot|amp|lt|gt)(?![A-Za-z0-9]))")
_ENTITY_ROUNDS = 3
_UNSAFE_IN_NAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
_LONGEST_NAME = 200


@dataclass(frozen=True, eq=False)
class _Tables:
    """The two files, checked, nothing left out yet."""

    item_ids: list[str]
    item_places: list[str]
    """Per item "file:line", for messages."""
    titles: list[str]
    entities: tuple[int, int]
    """Titles with HTML entities, and of them those that were encoded more than once."""
    user_ids: list[str]
    sequences: list[NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class _Selection:
    """Users with enough items, as rows of the tables, with their newest items."""

    users: list[int]
    sequences: list[NDArray[np.int32]]
    used: NDArray[np.int64]
    """The items in these sequences, ascending."""
    dropped: dict[str, int]


@dataclass(frozen=True, eq=False)
class _Pictures:
    """One picture for each used item of the selection."""

    selection: _Selection
    path: Path
    """The array of pictures."""
    dropped: dict[str, int]
    notes: tuple[str, ...]


def load_amazon(
    data_dir: str | Path,
    image_dir: str | Path | None = None,
    image_size: int | None = None,
    missing_images: MissingImages = "fail",
    *,
    needs_images: bool,
    progress: Progress | None = None,
) -> Catalogue:
    """Read `*items.tsv` and `*users*.tsv` of a folder and, if needed, the picture `<item>.jpg` of each item.

    Users with fewer than `MIN_LENGTH` items are left out, sequences keep their last `MAX_LENGTH` items, and items that
    then stand in no sequence are left out. Pictures come from `image_dir`, else from `images/` in the folder, are
    brought to `image_size` pixels (see `bench.data.images`), and `missing_images` says what becomes of items without a
    usable one: "fail", "drop-item" (before the users are counted) or "mean-image".

    The result is kept in the cache, keyed by the content of the two files, these options, and name, size and times of
    the files in the image folder. Raises UserError for anything wrong with files or options.
    """
    folder = Path(data_dir)
    items_path, users_path = _find_files(folder)
    items_bytes, users_bytes = _read(items_path), _read(users_path)
    key: list[str | int] = ["amazon", _VERSION, MIN_LENGTH, MAX_LENGTH, digest_of(items_bytes), digest_of(users_bytes)]
    if not needs_images:

        def build_text(_: Path) -> Catalogue:
            tables = _parse(items_path, items_bytes, users_path, users_bytes)
            return _catalogue(tables, _select(tables, users_path, _all_items(tables)), None)

        return cached_catalogue(digest_of(*key), build_text)

    size = _checked_options(image_size, missing_images)
    pictures_from = Path(image_dir) if image_dir is not None else folder / "images"
    key += [_folder_signature(pictures_from), size, missing_images, PIL.__version__]

    def build(entry: Path) -> Catalogue:
        tables = _parse(items_path, items_bytes, users_path, users_bytes)
        _check_names(tables)
        names = [pictures_from / f"{item}.jpg" for item in tables.item_ids]
        pictures = _pictures(tables, users_path, names, size, entry / IMAGES_FILE, missing_images, progress)
        return _catalogue(tables, pictures.selection, pictures)

    return cached_catalogue(digest_of(*key), build)


def decode_title(raw: str) -> tuple[str, int]:
    """A title as a person would read it, and how many rounds of decoding HTML entities it took (0: it held none).

    Some titles were encoded twice. An entity must end in a semicolon, save for quot, amp, lt and gt before something
    that is no letter or digit: browsers' leniency would make "¤t" of the end of "Voltage&current". White space
    (no-break spaces among it) becomes single spaces.
    """
    rounds = 0
    while rounds < _ENTITY_ROUNDS and (decoded := _ENTITY.sub(_entity, raw)) != raw:
        raw, rounds = decoded, rounds + 1
    return " ".join(raw.split()), rounds


def _entity(match: re.Match[str]) -> str:
    complete, bare = match.groups()
    if bare is not None:
        return html5[bare]
    return html.unescape(match[0]) if complete.startswith("#") else html5.get(f"{complete};", match[0])


def _find_files(folder: Path) -> tuple[Path, Path]:
    """The items file and the users file."""
    # os.path and not Path: the latter raises where a folder above may not be entered.
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of Amazon data")
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    files = [name for name in names if os.path.isfile(folder / name)]
    items, users = _only(folder, files, "*items.tsv"), _only(folder, files, "*users*.tsv")
    if items == users:
        raise UserError(f"{items}: matches *items.tsv and *users*.tsv; there must be a file of each")
    return items, users


def _only(folder: Path, files: Sequence[str], pattern: str) -> Path:
    found = fnmatch.filter(files, pattern)
    if not found:
        raise UserError(f"{folder}: no file named {pattern}")
    if len(found) > 1:
        raise UserError(f"{folder}: several files are named {pattern}: {', '.join(found)}")
    return folder / found[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, str, str]]:
    """Each line as its place "file:line" and its two fields."""
    if (position := content.find(b"\0")) >= 0:
        raise UserError(f"{path}:{_line_of(content, position)}: holds a NUL byte; not a text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line_of(error.object, error.start)}: not UTF-8 text") from error
    text = text.rstrip("\r\n")
    if not text:
        raise UserError(f"{path}: empty file")
    # Not splitlines(): it also breaks at characters that titles may hold.
    for number, line in enumerate(text.split("\n"), start=1):
        place, fields = f"{path}:{number}", line.removesuffix("\r").split("\t")
        if len(fields) != 2:
            raise UserError(f"{place}: {len(fields)} tab-separated fields, expected 2: {_quoted(line)}")
        yield place, fields[0], fields[1]


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def _parse(items_path: Path, items: bytes, users_path: Path, users: bytes) -> _Tables:
    index: dict[str, int] = {}
    places: list[str] = []
    titles: list[str] = []
    rounds: list[int] = []
    for place, item, raw_title in _lines(items_path, items):
        if item.split() != [item]:
            raise UserError(f"{place}: {_quoted(item)} is no item id: it must be there and hold no white space")
        if item in index:
            raise UserError(f"{place}: item {_quoted(item)} is already in line {index[item] + 1}")
        title, needed = decode_title(raw_title)
        if not title:
            raise UserError(f"{place}: item {_quoted(item)} has no title")
        index[item] = len(index)
        places.append(place)
        titles.append(title)
        rounds.append(needed)
    user_ids, sequences = _parse_users(users_path, users, items_path, index)
    entities = (sum(needed > 0 for needed in rounds), sum(needed > 1 for needed in rounds))
    return _Tables(list(index), places, titles, entities, user_ids, sequences)


def _parse_users(
    path: Path, content: bytes, items_path: Path, index: dict[str, int]
) -> tuple[list[str], list[NDArray[np.int32]]]:
    lines: dict[str, int] = {}
    sequences: list[NDArray[np.int32]] = []
    for place, user, items in _lines(path, content):
        if not user.strip():
            raise UserError(f"{place}: no user id before the tab")
        if user in lines:
            raise UserError(f"{place}: user {_quoted(user)} is already in line {lines[user]}")
        lines[user] = len(lines) + 1
        ids = items.split()
        if not ids:
            raise UserError(f"{place}: user {_quoted(user)} has no items")
        try:
            sequences.append(np.array([index[item] for item in ids], dtype=np.int32))
        except KeyError as error:
            raise UserError(f"{place}: item {_quoted(error.args[0])} is not in {items_path.name}") from None
    return list(lines), sequences


def _all_items(tables: _Tables) -> NDArray[np.bool_]:
    return np.ones(len(tables.item_ids), dtype=np.bool_)


def _select(tables: _Tables, users_path: Path, usable: NDArray[np.bool_]) -> _Selection:
    """Leave out items that are not usable, then short users, then what is older than the newest items."""
    users: list[int] = []
    sequences: list[NDArray[np.int32]] = []
    short = lost_to_short = older = 0
    for user, sequence in enumerate(tables.sequences):
        present = sequence[usable[sequence]]
        if len(present) < MIN_LENGTH:
            short += 1
            lost_to_short += len(present)
            continue
        users.append(user)
        sequences.append(present[-MAX_LENGTH:])
        older += max(0, len(present) - MAX_LENGTH)
    if not users:
        raise UserError(f"{users_path}: no user has {MIN_LENGTH} items that can be used")
    used = np.unique(np.concatenate(sequences)).astype(np.int64)
    dropped = {
        f"users with fewer than {MIN_LENGTH} interactions": short,
        "interactions of these users": lost_to_short,
        f"interactions before a user's last {MAX_LENGTH}": older,
        "items in no sequence that is left": int(usable.sum()) - len(used),
    }
    return _Selection(users, sequences, used, dropped)


def _catalogue(tables: _Tables, selection: _Selection, pictures: _Pictures | None) -> Catalogue:
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


def _text_notes(tables: _Tables, titles: Sequence[str]) -> tuple[str, ...]:
    encoded, twice = tables.entities
    return (
        f"{encoded} of {len(tables.titles)} titles in the items file held HTML entities, "
        f"{twice} of them encoded more than once; they were decoded.",
        f"{len(titles)} items have {len(set(titles))} different titles: text alone cannot tell the others apart.",
    )


def _checked_options(image_size: int | None, missing_images: str) -> int:
    if missing_images not in MISSING_IMAGES:
        raise UserError(f"missing images: {_quoted(missing_images)} is not one of {', '.join(MISSING_IMAGES)}")
    if image_size is None or not 1 <= image_size <= MAX_SIZE:
        raise UserError(f"image size: {image_size} is not between 1 and {MAX_SIZE} pixels")
    return image_size


def _folder_signature(folder: Path) -> str:
    """Names, sizes and times of a folder's files.

    Hashing the pictures themselves would read gigabytes at each start; the time of the last change of a file's state
    cannot be set by copying or touching it.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of images; give another, or leave images out (text alone)")
    entries: list[tuple[str, int, int, int]] = []
    try:
        with os.scandir(folder) as listing:
            for entry in listing:
                try:
                    status = entry.stat()
                except FileNotFoundError:  # a link to nowhere
                    continue
                entries.append((entry.name, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
    return digest_of(tuple(sorted(entries)))


def _check_names(tables: _Tables) -> None:
    """Refuse ids that would lead out of the image folder or are no file names."""
    for place, item in zip(tables.item_places, tables.item_ids, strict=True):
        if _UNSAFE_IN_NAME.search(item) or item.startswith(".") or len(item.encode()) > _LONGEST_NAME:
            raise UserError(f"{place}: item id {_quoted(item)} cannot be the name of an image file")


def _pictures(
    tables: _Tables,
    users_path: Path,
    names: Sequence[Path],
    size: int,
    out_path: Path,
    policy: MissingImages,
    progress: Progress | None,
) -> _Pictures:
    selection = _select(tables, users_path, _all_items(tables))
    wanted = selection.used
    if policy == "drop-item":  # a dropped item lets an older one into the last items, which needs its picture too
        wanted = np.unique(np.concatenate([tables.sequences[user] for user in selection.users])).astype(np.int64)
    made = build_image_array([names[item] for item in wanted], size, out_path, policy, progress)
    first = f" (the first: {made.bad[0].path.name}: {made.bad[0].reason})" if made.bad else ""
    if policy != "drop-item":
        stand_ins = (
            (f"The mean image stands in for {len(made.bad)} of {len(wanted)} items{first}.",) if made.bad else ()
        )
        return _Pictures(selection, out_path, {}, stand_ins)
    usable = _all_items(tables)
    usable[wanted[~made.usable]] = False
    selection = _select(tables, users_path, usable)
    kept = wanted[made.usable]
    if len(kept) != len(selection.used):
        select_rows(out_path, np.searchsorted(kept, selection.used))
    dropped = {
        "items without a usable image": len(made.bad),
        "interactions with these items": sum(int((~usable[sequence]).sum()) for sequence in tables.sequences),
    }
    notes = (f"{len(made.bad)} of {len(wanted)} items have no usable image and were left out{first}.",)
    return _Pictures(selection, out_path, dropped, notes if made.bad else ())
