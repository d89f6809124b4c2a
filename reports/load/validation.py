"""Validation of the files of a run folder, which may be damaged, forged or from another version."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.records.columns import INTEGERS, NUMBERS, TEXTS
from bench.utils.errors import UserError

Json = dict[str, Any]

_DEEPEST = 50
_MOST_DIGITS = 300
_SHARES = tuple(f"{part}{metric}@10" for part in ("", "valid_", "warm_", "cold_") for metric in ("hr", "ndcg"))


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: the file cannot be read or is not UTF-8; the message names it.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def read_json(path: Path) -> Json:
    """Read a JSON object; NaN and Infinity, which are not JSON, become None ("not measured").

    Raises:
        UserError: the file is not JSON, not an object, nested too deeply, or holds a number that no float can hold; the
            message names it.
    """
    text = read_text(path)
    try:
        value = json.loads(text, parse_constant=lambda _: None, parse_float=_finite, parse_int=_whole)
        value = _plain(value, _DEEPEST)
    except RecursionError:
        raise UserError(f"{path}: malformed JSON: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is beyond the range of a number")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _plain(value: Any, depth: int) -> Any:
    """Replace halves of surrogate pairs, which UTF-8 cannot hold, by question marks, at any depth."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_plain(key, depth): _plain(entry, depth - 1) for key, entry in value.items()}
    return [_plain(entry, depth - 1) for entry in value] if isinstance(value, list) else value


def read_toml(path: Path) -> Json:
    """Read a TOML table.

    Raises:
        UserError: the file cannot be read or is not TOML; the message names the file and the line.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: malformed TOML: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: malformed TOML: {error}") from None


def checked_row(path: Path, row: Json) -> Json:
    """Check the row of a record: texts are strings, figures are numbers of at least 0, shares are at most 1.

    Raises:
        UserError: a value has another type or range; the message names the file and the column.
    """
    for column in ("cell_id", "method", "status"):
        if not isinstance(row.get(column), str) or not row[column]:
            raise UserError(f"{path}: row.{column} is missing or not a text")
    for column in TEXTS:
        if row.get(column) is not None and not isinstance(row[column], str):
            raise UserError(f"{path}: row.{column} is not a text")
    for column in (*INTEGERS, *NUMBERS):
        if row.get(column) is not None:
            _check_figure(f"{path}: row.{column}", row[column], most=1.0 if column in _SHARES else None)
    if isinstance(row.get("seed"), float):
        raise UserError(f"{path}: row.seed is not a whole number")
    return row


def checked_figures(path: Path, key: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Check a part of a record that holds measurements: every number in it is at least 0.

    Raises:
        UserError: a number is below 0; the message names the file and the key.
    """
    for name, value in part.items():
        if isinstance(value, Mapping):
            checked_figures(path, f"{key}.{name}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_figure(f"{path}: {key}.{name}", value)
    return part


def _check_figure(where: str, value: object, most: float | None = None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{where} is not a number")
    if value < 0:
        raise UserError(f"{where} is below 0")
    if most is not None and value > most:
        raise UserError(f"{where} is above {most:g}")


def checked_dataset(path: Path, dataset: Json) -> Json:
    """Check dataset.json: counts are whole and at least 0, references are tables of shares, notes are a list.

    Raises:
        UserError: a value has another type or range; the message names the file and the key.
    """
    for key in ("users", "items", "interactions", "train_interactions"):
        value = dataset.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UserError(f"{path}: {key} is not a count")
    for key, kind in (("dropped", dict), ("references", dict), ("notes", list)):
        if dataset.get(key) is not None and not isinstance(dataset[key], kind):
            raise UserError(f"{path}: {key} is not {'a list' if kind is list else 'an object'}")
    for name, values in (dataset.get("references") or {}).items():
        if not isinstance(values, dict):
            raise UserError(f"{path}: references.{name} is not an object")
        for metric, value in values.items():
            if value is not None:
                _check_figure(f"{path}: references.{name}.{metric}", value, most=1.0)
    return dataset
