"""Sanitising of untrusted text for terminals and spreadsheets (formula injection), and hints for misspelt words."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST = 1000
"""Characters of a text that `printable` shows at most."""
# First characters that make a spreadsheet take a cell for a formula, also in full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_SIGNED = re.compile(r"[+-](?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def printable(text: object) -> str:
    """Text on one line, with control characters, line breaks and marks of text direction as escapes.

    Text of more than `LONGEST` characters is cut in the middle: a message may quote a file that is one long line.
    """
    shown = str(text)
    if len(shown) > LONGEST:
        half = LONGEST // 2
        shown = f"{shown[:half]}…{shown[1 - half :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in shown)


def as_json(value: Any) -> str:
    """JSON with one value per line, and JSON escapes for characters that are not printable."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    return "".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text)


def guarded(text: str) -> str:
    """Text of a spreadsheet cell, with an apostrophe in front of a formula. Numbers with a sign are unchanged."""
    return f"'{text}" if text.startswith(_FORMULA) and not _SIGNED.fullmatch(text) else text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """End of an error message: '; did you mean …?' with the nearest known word, else the list of known words."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
