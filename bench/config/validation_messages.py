"""What pydantic found wrong with a matrix, in words for whoever wrote it."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ValidationError

from bench.utils.text import did_you_mean

KeyPath = tuple[str | int, ...]

MATRIX_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
METHOD_NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$"
DEVICE = r"^(auto|cpu|cuda(:[0-9]{1,3})?)$"
_FORMS = {
    MATRIX_NAME: "must be at most 64 letters, digits and ._- and begin with a letter or digit",
    METHOD_NAME: "must be at most 64 letters, digits and ._+- and begin with a letter or digit",
    DEVICE: "must be auto, cpu, cuda or cuda:N",
}
_KINDS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a table",
    "dataclass_type": "must be a table",
    "finite_number": "must be finite",
    "json_invalid": "holds text that is not UTF-8",
}


def explain(error: ValidationError, schema: type, origin: str, options: Mapping[KeyPath, str]) -> str:
    """The first thing wrong, in one line.

    Args:
        schema: the dataclass that was asked for; its fields are the known keys.
        origin: file or preset that the line begins with.
        options: key path -> command-line option that set it; the line begins with the option then.
    """
    first: Any = error.errors()[0]
    path: KeyPath = first["loc"]
    for length in range(len(path), 0, -1):
        if path[:length] in options:
            return f"{options[path[:length]]}: {say(first)}"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        in_list = any(isinstance(part, int) for part in path)
        place, key = (f"{_where(path[:-1])}: ", str(path[-1])) if in_list else ("", _where(path))
        return f"{origin}: {place}unknown key {key!r}{did_you_mean(str(path[-1]), _keys_at(schema, path[:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{origin}: {_where(path)} is missing"
    return f"{origin}: {_where(path)}: {say(first)}" if path else f"{origin}: {say(first)}"


def say(first: Any, given: Any = None) -> str:
    """One entry of `ValidationError.errors()`: what a value must be and what it is."""
    form = _FORMS.get(first.get("ctx", {}).get("pattern", ""))
    if first["type"] == "too_short":
        return "must hold at least one"
    words = form or _KINDS.get(first["type"]) or first["msg"].replace("Input should", "must")
    text = repr(first["input"] if given is None else given)
    return f"{words}, got {text if len(text) < 80 else text[:77] + '...'}"


def _where(path: KeyPath) -> str:
    """``("methods", 0, "name")`` as "methods, the 1st: name"."""
    words = ""
    for part in path:
        if isinstance(part, int):
            words += f", the {_ordinal(part + 1)}"
        else:
            words += (": " if words.endswith(("st", "nd", "rd", "th")) else "." if words else "") + part
    return words


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _keys_at(schema: type, path: KeyPath) -> list[str]:
    """The keys that the table at ``path`` knows."""
    found: Any = schema
    for part in path:
        if isinstance(part, str):
            found = _inner(typing.get_type_hints(found)[part])
    return [f.name for f in dataclasses.fields(found)] if dataclasses.is_dataclass(found) else []


def _inner(hint: Any) -> Any:
    """The dataclass inside tuple[X, ...] and unions."""
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union, Annotated):
        return _inner(typing.get_args(hint)[0])
    return hint
