"""Names of files: listing of a folder, and a check of names from tables.

A name from a table must be a valid file name on every operating system, and must not lead out of its folder.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bench.utils.errors import UserError

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
# Names that Windows reserves for devices, with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_LONGEST = 200
_PICTURE_SUFFIX = re.compile(r"\.(jpe?g|jfif|png|gif|webp|bmp|tiff?|ppm|avif|heic)$")


def is_file_name(name: str) -> bool:
    """True if the name is a safe file name: no path, hidden file or device, and at most 200 bytes."""
    if _UNSAFE.search(name) or _DEVICE.fullmatch(name):
        return False
    return bool(name) and not name.startswith(".") and len(name.encode("utf-8", "replace")) <= _LONGEST


def similar_name(path: Path) -> str:
    """Name in the folder of an absent file that differs from its name in case, suffix or leading zeros alone, or ""."""
    try:
        names = visible_names(path.parent)
    except UserError:
        return ""
    for form in (str.casefold, _stem, lambda name: _stem(name).lstrip("0")):
        wanted = form(path.name)
        for name in names:
            if wanted and form(name) == wanted:
                return name
    return ""


def _stem(name: str) -> str:
    """Name without the suffix of a picture, in one case."""
    return _PICTURE_SUFFIX.sub("", name.casefold())


def visible_names(folder: Path) -> list[str]:
    """Sorted names in a folder, without hidden files.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def one_file(folder: Path, names: Sequence[str], *patterns: str) -> Path:
    """File that matches the first pattern with any match.

    Args:
        folder: the folder.
        names: names in the folder.
        patterns: patterns in the order of preference.

    Raises:
        UserError: no file matches, or several files match the pattern.
    """
    for pattern in patterns:
        found = [name for name in fnmatch.filter(names, pattern) if os.path.isfile(folder / name)]
        if len(found) > 1:
            raise UserError(f"{folder}: several files are named {pattern}: {', '.join(found)}")
        if found:
            return folder / found[0]
    raise UserError(f"{folder}: no file named {' or '.join(patterns)}")
