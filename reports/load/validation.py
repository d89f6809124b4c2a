"""What may stand in the files of a run: they may come from anywhere, and be damaged or made up."""

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
_SHARES = ("hr@10", "ndcg@10", "valid_hr@10", "valid_ndcg@10")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: names the file.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def read_json(path: Path) -> Json:
    """A JSON object; NaN and Infinity, which are no JSON and no figures, are read as "not measured".

    Raises:
        UserError: names the file; not JSON, no object, nested absurdly, a number that no float holds.
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
        raise ValueError(f"{text[:40]} is beyond what a number holds")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _plain(value: Any, depth: int) -> Any:
    """The value with halves of surrogate pairs, which no file in UTF-8 can hold, replaced."""
    if depth == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_plain(key, depth): _plain(entry, depth - 1) for key, entry in value.items()}
    return [_plain(entry, depth - 1) for entry in value] if isinstance(value, list) else value


def read_toml(path: Path) -> Json:
    """A TOML table.

    Raises:
        UserError: names the file and, where it is not TOML, the line.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: malformed TOML: nested too deeply") from None
    except ValueError as error:
        raise UserError(f"{path}: malformed TOML: {error}") from None


def checked_row(path: Path, row: Json) -> Json:
    """The row of a record: texts are texts, figures are numbers of at least 0, shares at most 1.

    Raises:
        UserError: names the file and the column.
    """
    for column in ("cell_id", "method", "status"):
        if not isinstance(row.get(column), str) or not row[column]:
            raise UserError(f"{path}: row.{column} is missing or no text")
    for column in TEXTS:
        if row.get(column) is not None and not isinstance(row[column], str):
            raise UserError(f"{path}: row.{column} is no text")
    for column in (*INTEGERS, *NUMBERS):
        if row.get(column) is not None:
            _check_figure(f"{path}: row.{column}", row[column], most=1.0 if column in _SHARES else None)
    if isinstance(row.get("seed"), float):
        raise UserError(f"{path}: row.seed is no whole number")
    return row


def checked_figures(path: Path, key: str, part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a record that holds measurements: whatever is a number there is at least 0.

    Raises:
        UserError: names the file and the key.
    """
    for name, value in part.items():
        if isinstance(value, Mapping):
            checked_figures(path, f"{key}.{name}", value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            _check_figure(f"{path}: {key}.{name}", value)
    return part


def _check_figure(where: str, value: object, most: float | None = None) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{where} is no number")
    if value < 0:
        raise UserError(f"{where} is below 0")
    if most is not None and value > most:
        raise UserError(f"{where} is above {most:g}")


def checked_dataset(path: Path, dataset: Json) -> Json:
    """``dataset.json``: counts are whole and at least 0, references are tables of shares, notes a list.

    Raises:
        UserError: names the file and the key.
    """
    for key in ("users", "items", "interactions", "train_interactions"):
        value = dataset.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UserError(f"{path}: {key} is no count")
    for key, kind in (("dropped", dict), ("references", dict), ("notes", list)):
        if dataset.get(key) is not None and not isinstance(dataset[key], kind):
            raise UserError(f"{path}: {key} is no {'list' if kind is list else 'object'}")
    for name, values in (dataset.get("references") or {}).items():
        if not isinstance(values, dict):
            raise UserError(f"{path}: references.{name} is no object")
        for metric, value in values.items():
            if value is not None:
                _check_figure(f"{path}: references.{name}.{metric}", value, most=1.0)
    return dataset
