"""Names of files: those that lie in a folder, and which names from a table may be one.

A name from a table must be one on every system, and lead nowhere but below the folder it is looked for in.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from bench.utils.errors import UserError

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
# Names that Windows keeps for devices, whatever stands after the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_LONGEST = 200


def is_file_name(name: str) -> bool:
    """Whether the name is that of a file: no path, no hidden file, no device, not too long (200 bytes)."""
    if _UNSAFE.search(name) or _DEVICE.fullmatch(name):
        return False
    return bool(name) and not name.startswith(".") and len(name.encode("utf-8", "replace")) <= _LONGEST


def visible_names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files left out, in order.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def one_file(folder: Path, names: Sequence[str], *patterns: str) -> Path:
    """The file of the first pattern that has any, among names of the folder.

    Raises:
        UserError: none has, or there are several of one pattern.
    """
    for pattern in patterns:
        found = [name for name in fnmatch.filter(names, pattern) if os.path.isfile(folder / name)]
        if len(found) > 1:
            raise UserError(f"{folder}: several files are named {pattern}: {', '.join(found)}")
        if found:
            return folder / found[0]
    raise UserError(f"{folder}: no file named {' or '.join(patterns)}")
