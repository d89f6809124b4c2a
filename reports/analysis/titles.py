"""What comparisons and reports are called: enough to tell them apart, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from bench.records.columns import GROUP

SEPARATOR = " · "

_ALWAYS = ("dataset", "modality", "text_model", "image_model")
"""What every title of a comparison says."""

_MOST_NAMES = 3
"""More runs than these are not all named in one title."""


def titles(keys: Sequence[tuple[Any, ...]], folders: Sequence[str | None]) -> list[str]:
    """Dataset, modality and backbones; of comparisons that share these, in few words, what else sets them apart.

    Args:
        keys: Per comparison its values of the columns `GROUP`.
        folders: Per comparison the name of the folder that its data lie in; None where they lie in none.
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
            # The batch size, say, is a column and a part of the budget.
            parts += dict.fromkeys(part for column in apart for part in column[number])
            found[place] = SEPARATOR.join(str(part) for part in parts if part)
    return found


def differing(full: Sequence[str]) -> list[str]:
    """Each title without what all of them say."""
    split = [title.split(SEPARATOR) for title in full]
    common = set[str].intersection(*map(set, split))
    return [SEPARATOR.join(part for part in parts if part not in common) or SEPARATOR.join(parts) for parts in split]


def of_runs(names: Sequence[str]) -> str:
    """One name for runs of these names: all of them where they are few, what they begin with where they are many."""
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
    """The end of a folder's path, as long as a hub id is, unless two models would be called the same."""
    brief = {str(model): _brief(str(model)) for model in models}
    return brief if len(set(brief.values())) == len(brief) else {name: name for name in brief}


def _brief(model: str) -> str:
    parts = PurePath(model).parts
    return "/".join(parts[-2:]) if len(parts) > 2 else model


def _data_apart(keys: Sequence[dict[str, Any]], folders: Sequence[str | None]) -> list[list[str]]:
    """What sets data apart: nothing where the shop's seed says it, else the folder, else the digest."""
    digests = [key["dataset_digest"] for key in keys]
    if _one_each([key["dataset_seed"] for key in keys], digests):
        return [[] for _ in keys]
    if _one_each(folders, digests):
        return [[f"data {folder}"] for folder in folders]
    return _apart("dataset_digest", digests)


def _one_each(names: Sequence[Any], values: Sequence[Any]) -> bool:
    """Whether there is another name for each of several values."""
    known = len(set(values)) > 1 and None not in names
    return known and len(set(names)) == len(set(values)) == len(set(zip(names, values, strict=True)))


def _apart(column: str, values: Sequence[Any]) -> list[list[str]]:
    """For each comparison what a column says of it and not of all the others, in words."""
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
    """A setting as one says it: `epochs 3` for `epochs=3`."""
    key, equals, value = text.partition("=")
    return f"{key.replace('_', ' ')} {value.removesuffix('.0')}" if equals else text
