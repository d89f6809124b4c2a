"""Rows of ``cache list`` and ``cache verify``: facts from the entries' headers, and checks of every checksum."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import numpy as np

from bench.data.cache.array_file import Damaged, check_blocks, read_header
from bench.data.cache.catalogue_store import load_catalogue
from bench.data.cache.eviction import ARRAYS, CATALOGUE_TABLE, CATALOGUES, TOKENS, Entry
from bench.utils import locks

Row = dict[str, Any]


def list_row(entry: Entry) -> Row:
    """Row of ``cache list`` for an entry. Only the header of its file is read.

    ``state`` is ready, in use, being built, partial (the next run continues the build), outdated (of an earlier
    version), temporary, or damaged with the reason. Facts that the entry does not hold are None.
    """
    row: Row = {
        "kind": entry.kind,
        "key": entry.key,
        "path": str(entry.paths[-1]),
        "model": None,
        "modality": None,
        "items": None,
        "layers": None,
        "dtype": None,
        "bytes": entry.size,
        "last_use": datetime.fromtimestamp(entry.used).astimezone().isoformat(timespec="seconds"),
        "state": _state(entry),
    }
    if entry.form != "whole":
        return row
    try:
        return row | _facts(entry)
    except (Damaged, OSError, ValueError, KeyError, TypeError) as error:
        return row | {"state": f"damaged: {error}"}


def _state(entry: Entry) -> str:
    busy = entry.in_use()
    if entry.form == "whole":
        return "in use" if busy else "ready"
    return "being built" if entry.form == "partial" and busy else entry.form


def _facts(entry: Entry) -> Row:
    if entry.kind in ARRAYS:
        with entry.paths[0].open("rb") as file:
            layout = read_header(file).layout
        return {
            "model": layout.facts.get("model"),
            "modality": layout.facts.get("modality"),
            "items": layout.shape[0],
            "layers": layout.facts.get("layers"),
            "dtype": layout.dtype,
        }
    if entry.kind == CATALOGUES:
        table = json.loads((entry.paths[0] / CATALOGUE_TABLE).read_bytes().split(b"\n")[1])
        return {"items": len(table["item_ids"])}
    return {}


def verify_row(entry: Entry) -> Row:
    """Row of ``cache verify`` for an entry: as `list_row`, after reading every byte and checking the checksums."""
    row = list_row(entry)
    if entry.form == "whole":
        try:
            _verify(entry)
        except FileNotFoundError:
            return row | {"state": "removed meanwhile"}
        except Exception as error:  # readers of damaged archives raise exceptions of any type
            return row | {"state": f"damaged: {error}"}
    return row


def _verify(entry: Entry) -> None:
    path = entry.paths[0]
    if entry.kind in ARRAYS:
        with path.open("rb") as file:
            locks.share(file)
            header = read_header(file)
            if header.layout.key != entry.key:
                raise Damaged("holds another array than its name says")
            check_blocks(file, header)
    elif entry.kind == CATALOGUES:
        load_catalogue(path)
    elif entry.kind == TOKENS:
        with np.load(path, allow_pickle=False) as stored:
            for name in stored.files:
                stored[name]
