"""Reading of two tables, items and interactions, into arrays; everything that is left out is counted."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.ragged import Ragged, offsets_of
from bench.data.readers.amazon_files import decode_title
from bench.data.readers.tables.columns import Chunk, TableFile, read_chunks
from bench.data.readers.tables.id_forms import difference, stands_for_missing, twins
from bench.data.readers.tables.row_meaning import RATING, UNREAD, Meanings, rated
from bench.data.readers.tables.row_shapes import FEW, RowShapes
from bench.data.readers.tables.timestamps import TimeForms, TimeKind, Times, kind_of, parse_times, show_moment
from bench.utils.errors import UserError

_UNKNOWN, _UNTITLED, _LOW = -1, -2, -3
_MOST_LOST = 0.5
"""Largest share of interactions with unknown items: with more, the tables do not belong together."""
_MOST_STRANGE = 1000
"""Number of unknown ids that are kept for messages."""
_ROLES = ("user", "item", "timestamp")
_SHARES = (50, 80, 90, 95)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, eq=False)
class Items:
    """Items of the items table that have a title, in the order of the table."""

    ids: list[str]
    titles: list[str]
    pictures: list[str] | None
    """Names of picture files; None without an image column."""
    rows: Mapping[str, int]
    """Item id -> place in the lists, or `_UNTITLED`."""
    encoded: int
    """Number of titles with HTML entities."""
    dropped: Mapping[str, int]
    notes: tuple[str, ...] = ()
    inside: Mapping[str, str] = field(default_factory=dict)
    """Id in a line inside quotation marks, which may be a row that a quotation mark without a partner has
    swallowed -> place of the row around it."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Log:
    """All interactions with items of the items table; users are in the order of their first row."""

    items: Items
    user_ids: list[str]
    sequences: Ragged
    """Items of each user, as places in `items`, oldest first; equal times are in the order of the rows."""
    times: Times | None
    """Times in the order of `sequences.flat`, (interactions,); None if the rows alone give the order."""
    kind: TimeKind
    dropped: Mapping[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """Notes on losses or oddities so large that they put the figures in doubt."""


def read_items(file: TableFile) -> Items:
    """Read the items table: columns item and title, and optionally image. The first row of an item counts.

    Raises:
        UserError: the file cannot be read, a row has no item id, or no item has a title.
    """
    ids: list[str] = []
    titles: list[str] = []
    pictures: list[str] | None = [] if "image" in file.columns else None
    rows: dict[str, int] = {}
    inside: dict[str, str] = {}
    shapes = RowShapes(file)
    repeated = retitled = untitled = encoded = 0
    for chunk in read_chunks(file):
        shapes.add(chunk)
        for row, lines in chunk.broken.items():
            inside.update((line["item"], chunk.place(row)) for line in lines)
        names = chunk.text("image").tolist() if pictures is not None else [""] * len(chunk.frame)
        codes, found = _ids(chunk, "item")
        for code, raw, name in zip(codes.tolist(), chunk.text("title").tolist(), names, strict=True):
            item = found[code]
            title, rounds = decode_title(raw)
            if item in rows:
                repeated += 1
                retitled += rows[item] >= 0 and titles[rows[item]] != title
                continue
            if not title:
                rows[item] = _UNTITLED
                untitled += 1
                continue
            rows[item] = len(ids)
            ids.append(item)
            titles.append(title)
            encoded += rounds > 0
            if pictures is not None:
                pictures.append(name.strip())
    if not ids:
        raise UserError(f"{file.path}: no item with a title")
    dropped = {"rows that name an item again": repeated, "items without a title": untitled}
    notes = shapes.notes()
    unnamed = sum(map(stands_for_missing, titles))
    if unnamed > 1:
        notes.append(f"{file.path.name}: {unnamed} items have a title such as 'nan' or 'null', as if it were missing.")
    if retitled:
        notes.append(f"{file.path.name}: {retitled} rows give an item another title; its first row counts.")
    return Items(ids, titles, pictures, rows, encoded, dropped, tuple(notes), inside, tuple(shapes.warnings(())))


def read_log(items_file: TableFile, file: TableFile, min_rating: float | None = None) -> Log:
    """Read both tables. The interactions have columns user and item, and optionally timestamp and rating.

    Args:
        items_file: the items table.
        file: the table of interactions.
        min_rating: rows with a smaller rating, or none, are left out and counted; None to keep all rows.

    Raises:
        UserError: as :func:`read_items`, a timestamp is invalid, or most interactions name unknown items.
    """
    items = read_items(items_file)
    users: dict[str, int] = {}
    user_column, item_column = array("i"), array("i")
    parts: list[Times] = []
    lost = {_UNKNOWN: 0, _UNTITLED: 0}
    strange: dict[str, None] = {}
    low: Counter[str] = Counter()
    kind: TimeKind | None = None
    shapes, forms = RowShapes(file), TimeForms()
    used = _ROLES if min_rating is None else (*_ROLES, RATING)
    meanings = Meanings(file, [role for role in file.columns if role not in used])
    for chunk in read_chunks(file):
        shapes.add(chunk)
        meanings.add(chunk)
        ids = _ids(chunk, "item")
        found = _places(ids, items.rows)
        if min_rating is not None:
            high, reasons = rated(chunk, min_rating)
            low.update(reasons)
            found[~high] = _LOW
        kept = found >= 0
        for reason in lost:
            lost[reason] += int((found == reason).sum())
        if items.inside or len(strange) < _MOST_STRANGE:  # each id inside a title is looked for among them
            strange.update(dict.fromkeys(ids[1][code] for code in np.unique(ids[0][found == _UNKNOWN])))
        user_column.frombytes(_numbered(_ids(chunk, "user"), users)[kept].tobytes())
        item_column.frombytes(found[kept].tobytes())
        if "timestamp" in file.columns:
            kind = kind or kind_of(chunk.frame["timestamp"])
            parts.append(parse_times(chunk, kind)[kept])
            forms.add(chunk.frame["timestamp"], kind)
    warnings = _losses(file, items_file, items, len(item_column), lost, strange, low)
    times = np.concatenate(parts) if parts else None
    user_codes = np.frombuffer(user_column, dtype=np.int32)
    order = np.argsort(user_codes, kind="stable") if times is None else np.lexsort((times, user_codes))
    flat = np.frombuffer(item_column, dtype=np.int32)[order]
    sequences = Ragged(flat, offsets_of(np.bincount(user_codes, minlength=len(users))))
    times = None if times is None else times[order]
    dropped = {
        **items.dropped,
        **low,
        "interactions with items that have no row": lost[_UNKNOWN],
        "interactions with items without a title": lost[_UNTITLED],
    }
    notes = [*items.notes, *shapes.notes(), *meanings.notes()]
    if times is not None:
        notes += _time_notes(sequences, times, kind or "number")
        warnings += [f"{file.path.name}: {said}" for said in forms.warnings(times, kind or "number")]
    warnings += [*items.warnings, *shapes.warnings(items.rows), *_user_warnings(file, users, user_codes)]
    return Log(items, list(users), sequences, times, kind or "number", dropped, tuple(notes), tuple(warnings))


def _ids(chunk: Chunk, column: str) -> tuple[NDArray[np.intp], list[str]]:
    """Place of each row's id among the distinct ids of a column, (rows,), and the distinct ids.

    Raises:
        UserError: an id is empty or contains control characters.
    """
    codes, found = pd.factorize(chunk.text(column))
    names: list[str] = found.tolist()
    for code, name in enumerate(names):
        if not name.strip() or _CONTROL.search(name):
            row = int(np.flatnonzero(codes == code)[0])
            what = f"{column} {ascii(name)[:70]} contains control characters" if name.strip() else f"no {column}"
            raise UserError(f"{chunk.place(row)}: {what}")
    return codes, names


def _places(ids: tuple[NDArray[np.intp], list[str]], known: Mapping[str, int]) -> NDArray[np.int32]:
    codes, names = ids
    return np.array([known.get(name, _UNKNOWN) for name in names], dtype=np.int32)[codes]


def _numbered(ids: tuple[NDArray[np.intp], list[str]], known: dict[str, int]) -> NDArray[np.int32]:
    """Number of each row's id, (rows,); new ids get the next number in `known`."""
    codes, names = ids
    return np.array([known.setdefault(name, len(known)) for name in names], dtype=np.int32)[codes]


def _losses(
    file: TableFile,
    items_file: TableFile,
    items: Items,
    kept: int,
    lost: Mapping[int, int],
    strange: Iterable[str],
    low: Mapping[str, int],
) -> list[str]:
    """Warnings about lost interactions. Raises UserError if most of them are lost, or a quotation mark is the cause."""
    total = kept + sum(lost.values())
    if total == 0:
        reasons = "".join(f", {count} {reason}" for reason, count in low.items() if count)
        raise UserError(f"{file.path}: no interactions{reasons and ' are left' + reasons}")
    for item in strange:
        if item in items.inside:
            raise UserError(
                f"{items.inside[item]}: a quotation mark swallows the row of item {ascii(item)[:70]}, which "
                f"{file.path.name} names; close it in its line, or write it twice inside of quotation marks"
            )
    unknown = f"name items that are not in {items_file.path.name}"
    hint = difference(strange, items.rows)
    if lost[_UNKNOWN] > _MOST_LOST * total:
        advice = "the two files do not belong together, or another column holds the items (--item-column)"
        raise UserError(
            f"{file.path}: {lost[_UNKNOWN]} of {total} interactions {unknown}: "
            + (f"{hint}; write them alike in both files" if "differ in" in hint else f"{hint}: {advice}")
        )
    if kept == 0:
        raise UserError(f"{file.path}: no interaction with an item that has a title")
    found = []
    for count, of, what in (
        (lost[_UNKNOWN], total, f"interactions {unknown}, {hint}"),
        (lost[_UNTITLED], total, f"interactions name items without a title in {items_file.path.name}"),
        (low.get(UNREAD, 0), total + sum(low.values()), "interactions have a rating that is not a number"),
    ):
        if count > FEW * of:
            found.append(f"{file.path.name}: {count} of {of} {what}; they are left out.")
    return found


def _user_warnings(file: TableFile, users: Mapping[str, int], codes: NDArray[np.int32]) -> list[str]:
    found = []
    if said := twins(users):
        found.append(f"{file.path.name}: {said}; they count as different users.")
    for name, code in users.items():
        if stands_for_missing(name):
            count = int((codes == code).sum())
            if count > FEW * len(codes):
                found.append(
                    f"{file.path.name}: {count} of {len(codes)} interactions have the user {ascii(name)[:70]}, as if "
                    "the user were not known; they count as those of one user."
                )
    return found


def _time_notes(sequences: Ragged, times: Times, kind: TimeKind) -> tuple[str, ...]:
    """Notes for the report: range of the times, interactions with equal times, and repeated interactions."""
    shares = np.percentile(times, _SHARES, method="lower")
    said = ", ".join(f"{share} % by {show_moment(at, kind)}" for share, at in zip(_SHARES, shares, strict=True))
    notes = [f"Interactions from {show_moment(times.min(), kind)} to {show_moment(times.max(), kind)}: {said}."]
    users = np.repeat(np.arange(len(sequences)), sequences.lengths)
    tied = np.flatnonzero((times[1:] == times[:-1]) & (users[1:] == users[:-1]))
    if len(tied):
        places = np.union1d(tied, tied + 1)
        notes.append(f"{len(places)} interactions have the time of another of the user: the order of rows decides.")
        order = np.lexsort((sequences.flat[places], times[places], users[places]))
        keys = [column[places][order] for column in (users, times, sequences.flat)]
        again = int(np.logical_and.reduce([key[1:] == key[:-1] for key in keys]).sum())
        if again:
            notes.append(f"{again} interactions repeat another with the same user, item and time; they were kept.")
    return tuple(notes)
