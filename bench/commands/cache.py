"""The ``cache`` command: lists, verifies and clears the entries of the cache."""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import add_options
from bench.utils.errors import UserError
from bench.utils.sizes import readable
from bench.utils.text import as_json

if TYPE_CHECKING:
    from bench.data.cache.eviction import Entry

# Heavy imports are inside functions: --help must answer at once.

Row = dict[str, Any]
UNITS = {"d": 86_400, "h": 3600, "m": 60}
COLUMNS = ("kind", "key", "model", "modality", "items", "layers", "dtype", "bytes", "last_use", "state")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "The cache is one folder of hidden states, tokens, resized pictures and converted datasets. list shows its "
        "entries; verify reads every byte and compares checksums (exit status 1 if an entry is damaged); clear removes "
        "the entries that no running process uses. A run builds missing or damaged entries again when it needs them."
    )
    parser.epilog = "example: python run_bench.py cache clear --older-than 30d"
    parser.add_argument("action", choices=["list", "verify", "clear"])
    parser.add_argument(
        "--older-than", metavar="AGE", help="clear: only entries not used for this time, such as 30d or 12h"
    )
    add_options(parser, "cache_dir", "json")


def run(args: argparse.Namespace) -> int:
    """Lists, verifies or clears the entries; returns 1 if verify found damage.

    Raises:
        UserError: an option is wrong, or the folder cannot be read.
    """
    from bench.data.cache import verify
    from bench.data.cache.eviction import entries
    from bench.data.cache.location import cache_dir

    if args.older_than is not None and args.action != "clear":
        raise UserError(f"--older-than: not allowed with cache {args.action}")
    root = cache_dir() if args.cache_dir is None else args.cache_dir.absolute()
    found = entries(root)
    if args.action == "clear":
        before = math.inf if args.older_than is None else time.time() - parse_age(args.older_than)
        rows = [_cleared(entry) for entry in found if entry.used < before]
    else:
        show = verify.verify_row if args.action == "verify" else verify.list_row
        rows = [show(entry) for entry in found]
    if args.json:
        print(as_json(rows))
    else:
        print("\n".join([*_table(rows), _summary(args.action, root, rows)]))
    return 1 if any(row["state"].startswith("damaged") for row in rows) and args.action == "verify" else 0


def parse_age(text: str) -> int:
    """Seconds of an age such as ``30d``, ``12h`` or ``90m``.

    Raises:
        UserError: the text is not an age.
    """
    found = re.fullmatch(r"(\d{1,6})([dhm])", text, re.ASCII)
    if found is None:
        raise UserError(f"--older-than {text}: expected an age such as 30d, 12h or 90m")
    return int(found[1]) * UNITS[found[2]]


def _cleared(entry: Entry) -> Row:
    from bench.data.cache import verify

    row = verify.list_row(entry)
    return row | {"state": "removed" if entry.remove() else "in use, kept"}


def _summary(action: str, root: Path, rows: Sequence[Row]) -> str:
    removed = [row for row in rows if row["state"] == "removed"]
    counted = removed if action == "clear" else rows
    total = f"{len(counted)} entries, {readable(sum(row['bytes'] for row in counted))}"
    said = f"removed from {root}: {total}" if action == "clear" else f"{root}: {total}"
    damaged = sum(row["state"].startswith("damaged") for row in rows)
    return _plain(said + (f", {damaged} damaged" if damaged else ""))


def _table(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    cells = [
        [name.replace("_", " ") for name in COLUMNS],
        *([_text(name, row[name]) for name in COLUMNS] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "bytes":
        return readable(value)
    if name == "last_use":
        return str(value)[:16].replace("T", " ")
    return _plain(str(value)[:12] if name == "key" else str(value))


def _plain(text: str) -> str:
    """Text with spaces instead of characters that are not printable, such as terminal escapes."""
    return "".join(character if character.isprintable() else " " for character in text)
