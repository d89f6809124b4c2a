"""Parsing and formatting of sizes in bytes."""

from __future__ import annotations

import re

from bench.utils.errors import UserError

UNITS = {"": 1, "b": 1}
UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)}
UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)}


def parse_size(text: str, option: str) -> int:
    """Bytes of a size such as ``24GiB``, ``24 GB``, ``500MiB`` or ``1000000``.

    Raises:
        UserError: the text is not a size above zero; the message names the option.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text, re.IGNORECASE | re.ASCII)
    unit = UNITS.get(found[2].lower()) if found else None
    number = float(found[1]) if found else 0.0
    if unit is None or not 1 <= number * unit < 2**63:
        raise UserError(f"{option} {text}: expected a size above zero such as 24GiB, 24GB, 500MiB or a number of bytes")
    return int(number * unit)


def readable(size: int) -> str:
    """Size with four digits in a decimal unit, such as ``1.234 GB``."""
    for scale, unit in ((1000**4, "TB"), (1000**3, "GB"), (1000**2, "MB"), (1000, "kB")):
        if size >= scale:
            return f"{size / scale:.4g} {unit}"
    return f"{size} B"
