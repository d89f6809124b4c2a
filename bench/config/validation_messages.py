"""Error messages for an invalid matrix: pydantic's validation errors in one line that names the key or option."""

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
# Pattern of a text field -> the rule in words.
_PATTERN_RULES = {
    MATRIX_NAME: "must be at most 64 letters, digits and ._- and begin with a letter or digit",
    METHOD_NAME: "must be at most 64 letters, digits and ._+- and begin with a letter or digit",
    DEVICE: "must be auto, cpu, cuda or cuda:N",
}
# Type of a pydantic error -> the rule in words; the other types keep pydantic's message.
_TYPE_RULES = {
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
    """One line on the first validation error.

    Args:
        schema: dataclass that the data were validated against; its fields are the known keys.
        origin: file or preset that the line begins with.
        options: key path -> command-line option that set it; if the error is in such a key, the line begins with the
            option.
    """
    first: Any = error.errors()[0]
    path: KeyPath = first["loc"]
    for length in range(len(path), 0, -1):
        if path[:length] in options:
            return f"{options[path[:length]]}: {requirement(first)}"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        in_list = any(isinstance(part, int) for part in path)
        place, key = (f"{_path_text(path[:-1])}: ", str(path[-1])) if in_list else ("", _path_text(path))
        return f"{origin}: {place}unknown key {key!r}{did_you_mean(str(path[-1]), _keys_at(schema, path[:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{origin}: {_path_text(path)} is missing"
    return f"{origin}: {_path_text(path)}: {requirement(first)}" if path else f"{origin}: {requirement(first)}"


def requirement(error: Any, given: Any = None) -> str:
    """The rule that a value broke and the value, as in "must be a whole number, got '16'".

    Args:
        error: an entry of ``ValidationError.errors()``.
        given: value to show; None for the value in the entry.
    """
    if error["type"] == "too_short":
        return "must hold at least one"
    pattern = error.get("ctx", {}).get("pattern", "")
    rule = _PATTERN_RULES.get(pattern) or _TYPE_RULES.get(error["type"])
    rule = rule or error["msg"].replace("Input should", "must")
    text = repr(error["input"] if given is None else given)
    return f"{rule}, got {text if len(text) < 80 else text[:77] + '...'}"


def _path_text(path: KeyPath) -> str:
    """A key path in words: ``("methods", 0, "name")`` as "methods, the 1st: name"."""
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
    """Known keys of the table at a key path."""
    table: Any = schema
    for part in path:
        if isinstance(part, str):
            table = _inner_type(typing.get_type_hints(table)[part])
    return [f.name for f in dataclasses.fields(table)] if dataclasses.is_dataclass(table) else []


def _inner_type(hint: Any) -> Any:
    """The type X of a hint such as ``tuple[X, ...]``, ``X | None`` or ``Annotated[X, ...]``."""
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union, Annotated):
        return _inner_type(typing.get_args(hint)[0])
    return hint
