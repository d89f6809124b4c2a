"""Where text from files and models goes, it must not be taken for commands: a terminal, a spreadsheet."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 1000
# What a spreadsheet takes for the start of a formula, also in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_SIGNED = re.compile(r"[+-](?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def printable(text: object) -> str:
    """Text on one line; control characters, line breaks and those that turn its direction show as escapes.

    More than `LONGEST` characters are cut in the middle: a message may quote a file that is one long line.
    """
    shown = str(text)
    if len(shown) > LONGEST:
        half = LONGEST // 2
        shown = f"{shown[:half]}…{shown[1 - half :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def as_json(value: Any) -> str:
    """JSON in lines, what is not printable in its strings as JSON's own escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def guarded(text: str) -> str:
    """A cell that a spreadsheet would run gets an apostrophe in front; numbers with a sign stay numbers."""
    return f"'{text}" if text.startswith(_FORMULA) and not _SIGNED.fullmatch(text) else text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean …?' with the nearest known word, or the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
