"""Locations of the tables and pictures of a dataset that consists of tables, and names of the columns."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.data.readers.file_names import one_file, visible_names
from bench.data.readers.tables.columns import TableFile, header
from bench.data.readers.tables.row_meaning import RATING, noted_columns
from bench.utils.errors import UserError

REQUIRED = ("user", "item", "title")
_INTERACTIONS = ("user", "item", "timestamp", RATING)
_TITLES = ("title", "item_title", "movie_title", "product_title", "book_title", "name", "item_name")
_RECBOLE = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "image": "image", RATING: RATING}
_TITLE_FILES = ("*_titles.csv", "*_title_en.csv", "*_title.csv")
_TEXT_TYPES = ("token", "token_seq")


@dataclass(frozen=True)
class Layout:
    """Tables of a dataset, and the folder of its pictures, to which the names of the pictures are relative."""

    items: TableFile
    interactions: TableFile
    pictures: Path


def find_layout(name: str, folder: Path, columns: Mapping[str, str], image_dir: str | Path | None = None) -> Layout:
    """Finds the tables and the folder of pictures of a dataset that consists of tables.

    Args:
        name: key of `LAYOUTS`.
        folder: folder of the tables.
        columns: role of a column -> its name, for columns that do not have the usual name.
        image_dir: folder of the pictures, instead of the usual one.

    Raises:
        UserError: a file or column is missing, or several files fit a pattern.
    """
    # Not Path.is_dir: it raises if this user may not enter a parent folder.
    if not os.path.isdir(folder):
        raise UserError(f"--data-dir {folder}: no such folder")
    names = visible_names(folder)
    layout = LAYOUTS[name](folder, names, columns)
    return layout if image_dir is None else Layout(layout.items, layout.interactions, Path(image_dir))


def _table(folder: Path, names: Sequence[str], columns: Mapping[str, str]) -> Layout:
    paths = [one_file(folder, names, f"{stem}.csv", f"{stem}.parquet") for stem in ("items", "interactions")]
    for stem in ("items", "interactions"):
        if f"{stem}.csv" in names and f"{stem}.parquet" in names:
            raise UserError(f"{folder}: there are {stem}.csv and {stem}.parquet; remove one of them")
    items, interactions = (
        TableFile(path, _plain(header(path), columns, roles))
        for path, roles in zip(paths, (("item", "title", "image"), _INTERACTIONS), strict=True)
    )
    return Layout(items, interactions, folder if "image" in items.columns else folder / "images")


def _plain(there: Sequence[str], columns: Mapping[str, str], roles: Sequence[str]) -> dict[str, str]:
    """Columns of a file: named by the options, else by their roles; optional columns only if they are in the file.

    Columns of interactions that may change what a row means are added, with their own names as roles.
    """
    wanted = {role: columns.get(role, role) for role in roles}
    chosen = {role: name for role, name in wanted.items() if role in REQUIRED or role in columns or name in there}
    if roles is _INTERACTIONS:
        chosen |= {name: name for name in noted_columns(there, list(chosen.values())) if name not in chosen}
    return chosen


def _microlens(folder: Path, names: Sequence[str], columns: Mapping[str, str]) -> Layout:
    pairs = one_file(folder, names, "*_pairs.csv")
    covers = [name for name in fnmatch.filter(names, "*_covers*") if os.path.isdir(folder / name)]
    if len(covers) > 1:
        raise UserError(
            f"{folder}: several folders are named *_covers*: {', '.join(covers)}; choose one with --image-dir"
        )
    return Layout(
        _titles(folder, names, columns),
        TableFile(pairs, _plain(header(pairs), columns, _INTERACTIONS)),
        folder / (covers[0] if covers else "images"),
    )


def _titles(folder: Path, names: Sequence[str], columns: Mapping[str, str]) -> TableFile:
    """Titles of MicroLens: CSV with a header (50k), CSV without a header (100k), or lines `item,title` (1M).

    The lines of the 1M release contain unclosed quotation marks, so they cannot be read as CSV.
    """
    found = [pattern for pattern in _TITLE_FILES if fnmatch.filter(names, pattern)]
    path = one_file(folder, names, *_TITLE_FILES)
    if len(found) > 1:
        raise UserError(f"{folder}: there are {' and '.join(found)}; remove all but one")
    if found == [_TITLE_FILES[0]]:
        return TableFile(path, _plain(header(path), columns, ("item", "title")))
    if "title" in columns:
        raise UserError(f"{path}: has no header, so --title-column cannot be used")
    return TableFile(
        path, {"item": "item", "title": "title"}, quoted=found != [_TITLE_FILES[2]], names=("item", "title")
    )


def _recbole(folder: Path, names: Sequence[str], columns: Mapping[str, str]) -> Layout:
    """Atomic files of RecBole: tab-separated, with fields named name:type (recbole.io, "Atomic Files")."""
    items, interactions = one_file(folder, names, "*.item"), one_file(folder, names, "*.inter")
    item_fields, pair_fields = (_fields(path) for path in (items, interactions))
    usual = dict(_RECBOLE)
    titles = [name for name in _TITLES if item_fields.get(name) in _TEXT_TYPES]
    if titles:
        usual["title"] = titles[0]
    elif "title" not in columns:
        text = [name for name, kind in item_fields.items() if kind in _TEXT_TYPES]
        raise UserError(f"{items}: no field {' or '.join(_TITLES)}; choose with --title-column: {', '.join(text)}")
    wanted = usual | dict(columns)
    found = (
        _typed(path, fields, wanted, columns, roles)
        for path, fields, roles in (
            (items, item_fields, ("item", "title", "image")),
            (interactions, pair_fields, _INTERACTIONS),
        )
    )
    item_file, pair_file = found
    return Layout(item_file, pair_file, folder if "image" in item_file.columns else folder / "images")


def _fields(path: Path) -> dict[str, str]:
    """Fields of an atomic file: name -> type."""
    fields = {}
    for field in header(path, "\t", quoted=False):
        name, colon, kind = field.rpartition(":")
        if not colon or kind not in (*_TEXT_TYPES, "float", "float_seq"):
            raise UserError(f"{path}: line 1: {field!a} is not a field of an atomic file such as user_id:token")
        fields[name] = kind
    return fields


def _typed(
    path: Path, fields: Mapping[str, str], wanted: Mapping[str, str], given: Mapping[str, str], roles: Sequence[str]
) -> TableFile:
    chosen = {}
    for role in roles:
        name = wanted[role]
        if name in fields:
            chosen[role] = f"{name}:{fields[name]}"
        elif role in REQUIRED or role in given:
            raise UserError(f"{path}: no field {name!a} ({role}); choose with --{role}-column: {', '.join(fields)}")
    if roles is _INTERACTIONS:
        used = [wanted[role] for role in chosen]
        chosen |= {name: f"{name}:{fields[name]}" for name in noted_columns(list(fields), used) if name not in chosen}
    return TableFile(path, chosen, separator="\t", quoted=False)


LAYOUTS = {"table": _table, "recbole": _recbole, "microlens": _microlens}
"""Kind of a dataset that consists of tables -> function that finds its files."""
