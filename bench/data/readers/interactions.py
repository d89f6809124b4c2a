"""Reading of two tables, items and interactions, into arrays; everything that is left out is counted."""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.ragged import Ragged, offsets_of
from bench.data.readers.amazon_files import decode_title
from bench.data.readers.columns import Chunk, TableFile, read_chunks
from bench.data.readers.timestamps import TimeKind, Times, kind_of, parse_times, show_moment
from bench.utils.errors import UserError

_UNKNOWN, _UNTITLED = -1, -2
_MOST_LOST = 0.5
"""Largest share of interactions with unknown items: with more, the tables do not belong together."""
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


def read_items(file: TableFile) -> Items:
    """Read the items table: columns item and title, and optionally image. The first row of an item counts.

    Raises:
        UserError: the file cannot be read, a row has no item id, or no item has a title.
    """
    ids: list[str] = []
    titles: list[str] = []
    pictures: list[str] | None = [] if "image" in file.columns else None
    rows: dict[str, int] = {}
    repeated = untitled = encoded = 0
    for chunk in read_chunks(file):
        names = chunk.text("image").tolist() if pictures is not None else [""] * len(chunk.frame)
        codes, found = _ids(chunk, "item")
        for code, raw, name in zip(codes.tolist(), chunk.text("title").tolist(), names, strict=True):
            item = found[code]
            if item in rows:
                repeated += 1
                continue
            title, rounds = decode_title(raw)
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
    return Items(ids, titles, pictures, rows, encoded, dropped)


def read_log(items_file: TableFile, file: TableFile) -> Log:
    """Read both tables. The interactions have columns user and item, and optionally timestamp.

    Raises:
        UserError: as :func:`read_items`, a timestamp is invalid, or most interactions name unknown items.
    """
    items = read_items(items_file)
    users: dict[str, int] = {}
    user_column, item_column = array("i"), array("i")
    parts: list[Times] = []
    lost = {_UNKNOWN: 0, _UNTITLED: 0}
    kind: TimeKind | None = None
    for chunk in read_chunks(file):
        found = _places(_ids(chunk, "item"), items.rows)
        kept = found >= 0
        for reason in lost:
            lost[reason] += int((found == reason).sum())
        user_column.frombytes(_numbered(_ids(chunk, "user"), users)[kept].tobytes())
        item_column.frombytes(found[kept].tobytes())
        if "timestamp" in file.columns:
            kind = kind or kind_of(chunk.frame["timestamp"])
            parts.append(parse_times(chunk, kind)[kept])
    _check_lost(file, items_file, len(item_column), lost)
    times = np.concatenate(parts) if parts else None
    user_codes = np.frombuffer(user_column, dtype=np.int32)
    order = np.argsort(user_codes, kind="stable") if times is None else np.lexsort((times, user_codes))
    flat = np.frombuffer(item_column, dtype=np.int32)[order]
    sequences = Ragged(flat, offsets_of(np.bincount(user_codes, minlength=len(users))))
    times = None if times is None else times[order]
    dropped = {
        **items.dropped,
        "interactions with items that have no row": lost[_UNKNOWN],
        "interactions with items without a title": lost[_UNTITLED],
    }
    notes = () if times is None else _time_notes(sequences, times, kind or "number")
    return Log(items, list(users), sequences, times, kind or "number", dropped, notes)


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


def _check_lost(file: TableFile, items: TableFile, kept: int, lost: Mapping[int, int]) -> None:
    total = kept + sum(lost.values())
    if total == 0:
        raise UserError(f"{file.path}: no interactions")
    if lost[_UNKNOWN] > _MOST_LOST * total:
        raise UserError(
            f"{file.path}: {lost[_UNKNOWN]} of {total} interactions name items that are not in {items.path.name}: "
            "the two files do not belong together, or another column holds the items (--item-column)"
        )
    if kept == 0:
        raise UserError(f"{file.path}: no interaction with an item that has a title")


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
