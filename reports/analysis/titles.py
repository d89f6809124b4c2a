"""Titles of comparisons and reports, just long enough to distinguish them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from bench.records.columns import GROUP

SEPARATOR = " · "

_ALWAYS = ("dataset", "modality", "text_model", "image_model")
"""Columns that every title of a comparison contains."""

_MOST_NAMES = 3
"""Largest number of runs that a title names one by one."""


def titles(keys: Sequence[tuple[Any, ...]], folders: Sequence[str | None]) -> list[str]:
    """Title of each comparison: dataset, modality and backbones, then the settings that distinguish it from others.

    Args:
        keys: Values of the columns `GROUP`, one tuple per comparison.
        folders: Name of the data folder of each comparison; None without a data folder.
    """
    named = [dict(zip(GROUP, key, strict=True)) for key in keys]
    models = _short_models([key[column] for key in named for column in ("text_model", "image_model") if key[column]])
    places: dict[tuple[Any, ...], list[int]] = {}
    for place, key in enumerate(named):
        places.setdefault(tuple(key[column] for column in _ALWAYS), []).append(place)
    found = [""] * len(keys)
    for (dataset, modality, *pair), members in places.items():
        mine = [named[place] for place in members]
        apart = [
            _data_apart(mine, [folders[place] for place in members])
            if column == "dataset_digest"
            else _apart(column, [key[column] for key in mine])
            for column in GROUP
        ]
        for number, place in enumerate(members):
            parts = [dataset, modality, " + ".join(dict.fromkeys(models[str(model)] for model in pair if model))]
            # A setting such as the batch size is a column and a part of the budget: name it once.
            parts += dict.fromkeys(part for column in apart for part in column[number])
            found[place] = SEPARATOR.join(str(part) for part in parts if part)
    return found


def differing(full: Sequence[str]) -> list[str]:
    """Each title without the parts that all titles share."""
    split = [title.split(SEPARATOR) for title in full]
    common = set[str].intersection(*map(set, split))
    return [SEPARATOR.join(part for part in parts if part not in common) or SEPARATOR.join(parts) for parts in split]


def of_runs(names: Sequence[str]) -> str:
    """One name for several runs: all names if there are few, else their common beginning and the number of runs."""
    different = list(dict.fromkeys(names))
    if len(different) <= _MOST_NAMES:
        return ", ".join(different)
    shared = []
    for words in zip(*(name.split("-") for name in different), strict=False):
        if len(set(words)) > 1:
            break
        shared.append(words[0])
    first = "-".join(shared)
    return f"{first} ({len(different)} runs)" if first else f"{different[0]} and {len(different) - 1} others"


def _short_models(models: Sequence[str]) -> dict[str, str]:
    """Short name of each model: the last two parts of a path, unless two models would get the same name."""
    brief = {str(model): _brief(str(model)) for model in models}
    return brief if len(set(brief.values())) == len(brief) else {name: name for name in brief}


def _brief(model: str) -> str:
    parts = PurePath(model).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else model


def _data_apart(keys: Sequence[dict[str, Any]], folders: Sequence[str | None]) -> list[list[str]]:
    """Parts of titles that distinguish data: none if the shop's seed suffices, else the folder, else the digest."""
    digests = [key["dataset_digest"] for key in keys]
    if _one_each([key["dataset_seed"] for key in keys], digests):
        return [[] for _ in keys]
    if _one_each(folders, digests):
        return [[f"data {folder}"] for folder in folders]
    return _apart("dataset_digest", digests)


def _one_each(names: Sequence[Any], values: Sequence[Any]) -> bool:
    """True if there are several values and each has a name of its own."""
    known = len(set(values)) > 1 and None not in names
    return known and len(set(names)) == len(set(values)) == len(set(zip(names, values, strict=True)))


def _apart(column: str, values: Sequence[Any]) -> list[list[str]]:
    """Parts of titles from one column: the settings of each comparison that not all comparisons share."""
    name = column.replace("_", " ")
    if len(set(values)) == 1:
        return [[] for _ in values]
    if column == "dataset_digest":
        return [[f"data {str(value)[:8]}" if value else "data unknown"] for value in values]
    separator = {"budget": "; ", "training": "; ", "machine": ", "}.get(column)
    if separator is None:
        return [[f"{name} {'unknown' if value is None else value}"] for value in values]
    settings = [str(value).split(separator) if value else [f"{name} unknown"] for value in values]
    common = set[str].intersection(*map(set, settings))
    return [[_setting(part) for part in parts if part not in common] for parts in settings]


def _setting(text: str) -> str:
    """A setting in words: `epochs 3` for `epochs=3`."""
    key, equals, value = text.partition("=")
    return f"{key.replace('_', ' ')} {value.removesuffix('.0')}" if equals else text
