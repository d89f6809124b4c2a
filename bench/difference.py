"""What sets two matrix files apart."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any

# Settings that change nothing of what a cell measures: a run may go on with others.
PASSING = ("profile", "checkpoint_every", "save_adapters")


def first_difference(old: str, new: str) -> str:
    """What sets two matrix files apart, by key; empty if they ask for the same cells."""
    try:
        before, after = (_flat(tomllib.loads(text)) for text in (old, new))
    except tomllib.TOMLDecodeError as error:
        return f"its matrix.toml cannot be read: {error}"
    for key in [*before, *(key for key in after if key not in before)]:
        if key.split(".")[0] not in PASSING and before.get(key) != after.get(key):
            return f"{key}: there {_said(before, key)}, now {_said(after, key)}"
    return ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots; of lists of tables the names, then each table by its name."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".strip(".")).items()}
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        names = [str(part.get("name", index + 1)) for index, part in enumerate(value)]
        parts = {
            k: v for name, part in zip(names, value, strict=True) for k, v in _flat(part, f"{prefix}.{name}").items()
        }
        return {prefix: names, **parts}
    return {prefix: value}


def _said(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not set"
    value = values[key]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
