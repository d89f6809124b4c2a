"""Which names from a table may be file names: on every system, and only below the folder they are looked for in."""

from __future__ import annotations

import re

_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
# Names that Windows keeps for devices, whatever stands after the first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)
_LONGEST = 200


def is_file_name(name: str) -> bool:
    """Whether the name is that of a file: no path, no hidden file, no device, not too long (200 bytes)."""
    if _UNSAFE.search(name) or _DEVICE.fullmatch(name):
        return False
    return bool(name) and not name.startswith(".") and len(name.encode("utf-8", "replace")) <= _LONGEST
