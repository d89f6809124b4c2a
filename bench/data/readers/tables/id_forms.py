"""Explanation of ids that are written differently in two files."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from itertools import islice
from types import MappingProxyType

_SAMPLE = 1000
_MISSING = ("nan", "na", "n/a", "<na>", "nat", "none", "null", "\\n")
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?[eE][+-]?[0-9]{1,2}")
_THOUSANDS = re.compile(r"[0-9]{1,3}([,.' \u00a0][0-9]{3})+")


def _whole(text: str) -> str:
    return re.sub(r"(?<=[0-9])\.0*$", "", text)


def _plain_number(text: str) -> str:
    if not _NUMBER.fullmatch(text):
        return text
    value = Decimal(text)
    return str(int(value)) if value == value.to_integral_value() else text


def _without_thousands(text: str) -> str:
    return re.sub(r"[^0-9]", "", text) if _THOUSANDS.fullmatch(text) else text


def _without_zeros(text: str) -> str:
    return text.lstrip("0") or text[:1]


_FORMS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "white space around them": str.strip,
        "quotation marks around them": lambda text: text.strip("\"'"),
        "leading zeros": _without_zeros,
        'a ".0" at the end': _whole,
        "scientific notation": _plain_number,
        "thousands separators": _without_thousands,
        "upper and lower case": str.casefold,
        'leading zeros and a ".0" at the end': lambda text: _without_zeros(_whole(text.strip())),
    }
)
"""How the ids of one file may differ from those of another -> function that removes the difference."""


def difference(strange: Iterable[str], known: Iterable[str]) -> str:
    """Clause for a message that shows an id of each side and says how the two differ.

    Args:
        strange: ids that are not among the known ids; the first `_SAMPLE` are looked at.
        known: ids of the other file.

    Returns:
        Such as "'7' instead of '007': the ids differ in leading zeros", if that holds for half of the strange ids or
        more. Otherwise one id of each side. "" if a side has no id.
    """
    sample, known = list(islice(strange, _SAMPLE)), list(known)
    if not sample or not known:
        return ""
    for what, form in _FORMS.items():
        wanted = {form(text) for text in sample}
        there: dict[str, str] = {}
        for text in known:
            if (plain := form(text)) in wanted:
                there.setdefault(plain, text)
        matched = [text for text in sample if form(text) in there]
        if 2 * len(matched) >= len(sample):
            first = matched[0]
            return f"{_short(first)} instead of {_short(there[form(first)])}: the ids differ in {what}"
    return f"such as {_short(sample[0])}, while the ids there are such as {_short(known[0])}"


def twins(ids: Collection[str]) -> str:
    """Clause for a warning about ids that differ from another id only in white space or a ".0"; "" without such ids."""
    found = [(text, plain) for text in ids if (plain := _whole(text.strip().strip("\"'"))) != text and plain in ids]
    if not found:
        return ""
    return f"{len(found)} ids differ from another only in form, such as {_short(found[0][0])} and {_short(found[0][1])}"


def stands_for_missing(text: str) -> bool:
    """True for the words that programs write where a value is missing."""
    return text.strip().casefold() in _MISSING


def _short(text: str) -> str:
    return ascii(text)[:70]
