"""Parser of the two tab-separated files of Amazon data, with a check of every line."""

import html
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.readers.file_names import one_file, visible_names
from bench.data.readers.tables.id_forms import difference
from bench.utils.errors import UserError

# At most nine digits: no character has a longer number, and Python refuses to parse a number of thousands of digits.
_ENTITY = re.compile(r"&(?:(#[0-9]{1,9}|#[xX][0-9A-Fa-f]{1,9}|[A-Za-z][A-Za-z0-9]*);|(quot|amp|lt|gt)(?![A-Za-z0-9]))")
_ENTITY_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class Tables:
    """Content of the two files, checked, with nothing left out."""

    item_ids: list[str]
    item_places: list[str]
    """Place of each item as "file:line", for messages."""
    titles: list[str]
    entities: tuple[int, int]
    """Numbers of titles with HTML entities, and of titles that were encoded more than once."""
    user_ids: list[str]
    sequences: list[NDArray[np.int32]]


def decode_title(raw: str) -> tuple[str, int]:
    """Decode the HTML entities of a title; returns it and the number of rounds of decoding (0 without entities).

    Some titles were encoded twice. An entity must end in a semicolon, except quot, amp, lt and gt before a character
    that is not a letter or digit: the lenient rules of browsers would turn the end of "Voltage&current" into "¤t".
    Any white space, no-break spaces included, becomes a single space.
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


def find_files(folder: Path) -> tuple[Path, Path]:
    """Paths of the items file and of the users file. Raises UserError."""
    # Not Path.is_dir: it raises if this user may not enter a parent folder.
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: no such folder of Amazon data")
    names = visible_names(folder)
    items, users = one_file(folder, names, "*items.tsv"), one_file(folder, names, "*users*.tsv")
    if items == users:
        raise UserError(f"{items}: matches *items.tsv and *users*.tsv; there must be a file of each")
    return items, users


def read(path: Path) -> bytes:
    """Content of a file. Raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def _lines(path: Path, content: bytes) -> Iterator[tuple[str, str, str]]:
    """Yields each line as its place "file:line" and its two fields."""
    if (position := content.find(b"\0")) >= 0:
        raise UserError(f"{path}:{_line_of(content, position)}: contains a NUL byte; not a text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{_line_of(error.object, error.start)}: not UTF-8 text") from error
    text = text.rstrip("\r\n")
    if not text:
        raise UserError(f"{path}: empty file")
    # Not splitlines(): it also splits at characters that titles may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        place, fields = f"{path}:{number}", line.removesuffix("\r").split("\t")
        if not line.strip():
            raise UserError(f"{place}: an empty line")
        if len(fields) != 2:
            raise UserError(f"{place}: {len(fields)} tab-separated fields, expected 2: {quoted(line)}")
        yield place, fields[0], fields[1]


def _line_of(content: bytes, position: int) -> int:
    return content.count(b"\n", 0, position) + 1


def quoted(text: str) -> str:
    """Text from a file for a message: printable ASCII, cut to 60 characters."""
    return ascii(text if len(text) <= 60 else f"{text[:60]}...")


def parse(items_path: Path, items: bytes, users_path: Path, users: bytes) -> Tables:
    """Parse the content of both files. Raises UserError with file and line of the first error."""
    index: dict[str, int] = {}
    places: list[str] = []
    titles: list[str] = []
    rounds: list[int] = []
    for place, item, raw_title in _lines(items_path, items):
        if item.split() != [item] or not item.isprintable():
            raise UserError(
                f"{place}: {quoted(item)} is no item id: it must be there, printable and without white space"
            )
        if item in index:
            raise UserError(f"{place}: item {quoted(item)} is already in line {index[item] + 1}")
        title, needed = decode_title(raw_title)
        if not title:
            raise UserError(f"{place}: item {quoted(item)} has no title")
        index[item] = len(index)
        places.append(place)
        titles.append(title)
        rounds.append(needed)
    user_ids, sequences = _parse_users(users_path, users, items_path, index)
    entities = (sum(needed > 0 for needed in rounds), sum(needed > 1 for needed in rounds))
    return Tables(list(index), places, titles, entities, user_ids, sequences)


def _parse_users(
    path: Path, content: bytes, items_path: Path, index: dict[str, int]
) -> tuple[list[str], list[NDArray[np.int32]]]:
    lines: dict[str, int] = {}
    sequences: list[NDArray[np.int32]] = []
    for place, user, items in _lines(path, content):
        if not user.strip():
            raise UserError(f"{place}: no user id before the tab")
        if not user.isprintable():
            raise UserError(f"{place}: {quoted(user)} is no user id: it holds control characters")
        if user in lines:
            raise UserError(f"{place}: user {quoted(user)} is already in line {lines[user]}")
        lines[user] = len(lines) + 1
        ids = items.split()
        if not ids:
            raise UserError(f"{place}: user {quoted(user)} has no items")
        try:
            sequences.append(np.array([index[item] for item in ids], dtype=np.int32))
        except KeyError as error:
            said = difference(error.args, index)
            found = f", {said}" if "differ in" in said else ""
            raise UserError(f"{place}: item {quoted(error.args[0])} is not in {items_path.name}{found}") from None
    return list(lines), sequences
