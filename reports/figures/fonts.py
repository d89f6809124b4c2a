"""Fonts for names in scripts that matplotlib's own font lacks (Chinese, Japanese, Korean, Arabic, Thai and others)."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import matplotlib as mpl
from matplotlib import font_manager

_MISSING = re.compile(r"Glyph (\d+) ")
# Fonts with a box for every character; they come with matplotlib and with some systems.
_BOXES = ("Last Resort", "LastResort")
_MOST_SHOWN = 8

Result = TypeVar("Result")


def with_fallback(draw: Callable[[], Result]) -> tuple[Result, str]:
    """Draw, and draw again with further fonts if characters were missing and a font of the system has them.

    Returns:
        The result of the last drawing, and the characters that no installed font has.
    """
    result, missing = _drawn(draw)
    found = fallback(missing)
    if found:
        with mpl.rc_context({"font.family": [*mpl.rcParams["font.family"], *found]}):
            result, missing = _drawn(draw)
    return result, missing


def note(missing: str) -> str:
    """Sentence for a figure's caption about characters that are drawn as boxes; "" without any."""
    if not missing:
        return ""
    shown = missing[:_MOST_SHOWN] + ("…" if len(missing) > _MOST_SHOWN else "")
    return (
        f" No installed font has {len(missing)} of the characters ({shown}), which are drawn as boxes; install a font "
        "with them, for example Noto Sans CJK for Chinese, Japanese and Korean, and run the command report again."
    )


def fallback(characters: Iterable[str]) -> list[str]:
    """Families of installed fonts that have these characters: as few as possible, in alphabetical order where alike."""
    left, chosen = frozenset(map(ord, characters)), []
    while left:
        best = max(sorted(_families()), key=lambda family: len(left & _characters(family)), default=None)
        if best is None or not left & _characters(best):
            break
        chosen.append(best)
        left -= _characters(best)
    return chosen


def _families() -> dict[str, str]:
    """Installed families and the file of each, the upright one of normal weight if there is one."""
    fonts = [font for font in font_manager.fontManager.ttflist if not font.name.startswith(_BOXES)]
    fonts.sort(key=lambda font: (font.style == "normal", font.weight in (400, "normal", "regular"), font.fname))
    return {font.name: font.fname for font in fonts}


@cache
def _characters(family: str) -> frozenset[int]:
    """Code points that a family has; none if its file cannot be read."""
    try:
        return frozenset(font_manager.get_font(_families()[family]).get_charmap())
    except (OSError, RuntimeError, KeyError):
        return frozenset()


def _drawn(draw: Callable[[], Result]) -> tuple[Result, str]:
    """Result of a drawing, and the characters that its fonts lack, in order of their code points."""
    missing: set[str] = set()
    with _watched(missing):
        result = draw()
    return result, "".join(sorted(missing))


@contextmanager
def _watched(missing: set[str]) -> Any:
    """Collect characters from matplotlib's warnings about them; other warnings are passed on."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for warning in caught:
            if found := _MISSING.match(str(warning.message)):
                missing.add(chr(int(found[1])))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
