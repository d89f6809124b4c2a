"""Examination of a dataset before a long run: facts, near-duplicates, reference accuracies and warnings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import near_duplicates
from bench.data.baselines import references
from bench.data.catalogue import Catalogue
from bench.data.config import DatasetConfig
from bench.data.datasets import describe, files_config, load, split_catalogue
from bench.data.kinds import KINDS
from bench.data.near_duplicates import NearDuplicates
from bench.data.ragged import Ragged
from bench.data.readers.file_names import similar_name
from bench.data.readers.images import ImageProblem, decode_image
from bench.data.readers.table_dataset import image_paths
from bench.data.splits import Splits
from bench.utils.errors import UserError

_HASHED_SIZE = 32
_MANY = 0.2
_SHOWN = 3
_TITLE_SHOWN = 80


@dataclass(frozen=True, eq=False)
class Examination:
    """Result of an examination: facts as plain values, and the numbers behind the figures."""

    facts: dict[str, Any]
    lengths: NDArray[np.int64]
    """Lengths of the sequences, (users,)."""
    popularity: NDArray[np.int64]
    """Training interactions of each item, (items,)."""
    title_words: NDArray[np.int64]
    """Words of each title, (items,)."""


def examine(config: DatasetConfig, seconds: float = near_duplicates.SECONDS) -> Examination:
    """Loads and splits a dataset, and collects facts and warnings about it.

    All pictures are decoded only if the configuration has a policy for missing or bad pictures other than "fail".

    Args:
        config: the dataset.
        seconds: time limit of each of the two searches for near-duplicates.

    Raises:
        UserError: something is wrong with the files.
    """
    decides = {config.missing_images, config.bad_images} != {"fail"}
    catalogue = load(config, _HASHED_SIZE if decides else None)
    splits = split_catalogue(catalogue)
    lengths = Ragged.of(catalogue.sequences).lengths
    words = np.fromiter((len(title.split()) for title in catalogue.titles), dtype=np.int64)
    facts = describe(config, catalogue, splits) | {
        "lengths": _quartiles(lengths),
        "title_words": _quartiles(words),
        "duplicates": _duplicates(catalogue),
        "alike_titles": _near_duplicate_titles(catalogue, seconds),
        "images": _images(config, catalogue, seconds),
        "cold": {"valid": _cold(splits, splits.valid_target), "test": _cold(splits, splits.test_target)},
        "popularity": _concentration(splits.popularity),
        "references": references(config, catalogue, splits),
    }
    warnings = [*catalogue.warnings, *_warnings(config, facts)]
    return Examination(facts | {"warnings": warnings}, lengths, splits.popularity, words)


def _quartiles(values: NDArray[np.int64]) -> dict[str, float]:
    names = ("min", "lower_quartile", "median", "upper_quartile", "max")
    return dict(zip(names, np.percentile(values, (0, 25, 50, 75, 100)).tolist(), strict=True))


def _duplicates(catalogue: Catalogue) -> dict[str, int]:
    """Counts of repeated interactions, of users with equal sequences, and of items with equal titles."""
    rows = Ragged.of(catalogue.sequences)
    users = np.repeat(np.arange(len(rows)), rows.lengths)
    again = len(rows.flat) - len(np.unique(users * len(catalogue.item_ids) + rows.flat))
    at_once = int(((rows.flat[1:] == rows.flat[:-1]) & (users[1:] == users[:-1])).sum())
    return {
        "interactions_repeating_an_item_of_the_user": int(again),
        "interactions_repeating_the_one_before": at_once,
        "users_with_the_sequence_of_another": len(rows) - len({row.tobytes() for row in rows}),
        "items_with_the_title_of_another": len(catalogue.titles) - len(set(catalogue.titles)),
    }


def _near_duplicate_titles(catalogue: Catalogue, seconds: float) -> dict[str, Any]:
    rows = near_duplicates.sample(len(catalogue.titles))
    found = near_duplicates.near_duplicate_titles((catalogue.titles[row] for row in rows), seconds)
    return _shown(found, [f"{catalogue.item_ids[row]}: {catalogue.titles[row]}" for row in rows])


def _images(config: DatasetConfig, catalogue: Catalogue, seconds: float) -> dict[str, Any] | None:
    """Share of items with a picture, and near-duplicates among the pictures; None without a folder of pictures."""
    if not KINDS[config.name].in_files:
        pictures = catalogue.images
        assert pictures is not None
        hashes = [near_duplicates.difference_hash(pictures[row]) for row in near_duplicates.sample(len(pictures))]
        shown = [catalogue.titles[row] for row in near_duplicates.sample(len(pictures))]
        return _image_facts(len(pictures), [], 0, hashes, shown, seconds)
    paths = _paths(config, catalogue)
    if paths is None:
        return None
    there = [path.is_file() for path in paths]
    missing = [path for path, is_there in zip(paths, there, strict=True) if not is_there]
    hashes, shown, bad = _hash_files([path for path, is_there in zip(paths, there, strict=True) if is_there], seconds)
    return _image_facts(len(paths), missing, bad, hashes, shown, seconds)


def _paths(config: DatasetConfig, catalogue: Catalogue) -> list[Path] | None:
    if not KINDS[config.name].has_columns:
        folder = Path(config.image_dir or Path(config.data_dir or "") / "images")
        paths = [folder / f"{item}.jpg" for item in catalogue.item_ids]
    else:
        folder, paths = image_paths(files_config(config), catalogue.item_ids)
    if folder.is_dir():
        return paths
    if config.image_dir is not None:
        raise UserError(f"--image-dir {folder}: no such folder")
    return None


def _hash_files(paths: Sequence[Path], seconds: float) -> tuple[list[int], list[str], int]:
    """Hashes and names of as many pictures as the time limit allows, and the number of unreadable pictures."""
    hashes, names, bad = [], [], 0
    deadline = time.monotonic() + seconds
    for row in near_duplicates.sample(len(paths)):
        if time.monotonic() > deadline:
            break
        try:
            hashes.append(near_duplicates.difference_hash(decode_image(paths[row], _HASHED_SIZE)))
            names.append(paths[row].name)
        except (ImageProblem, MemoryError):
            bad += 1
    return hashes, names, bad


def _image_facts(
    items: int, missing: Sequence[Path], bad: int, hashes: list[int], shown: list[str], seconds: float
) -> dict[str, Any]:
    found = near_duplicates.near_duplicate_pictures(np.array(hashes, dtype=np.uint64), seconds)
    there = items - len(missing)
    return {
        "items_with_an_image": there,
        "share": there / items,
        "first_missing": str(missing[0]) if missing else None,
        "similar_to_first_missing": (similar_name(missing[0]) or None) if missing else None,
        "opened": len(hashes) + bad,
        "unreadable": bad,
        "alike": _shown(found, shown),
    }


def _shown(found: NearDuplicates, names: Sequence[str]) -> dict[str, Any]:
    """Result of a search as plain values, with names of some members of the largest groups."""
    groups = [
        {"items": len(group), "such_as": [names[i][:_TITLE_SHOWN] for i in group[:_SHOWN]]} for group in found.largest
    ]
    return {
        "compared": found.compared,
        "complete": found.complete,
        "items": found.items,
        "groups": found.groups,
        "largest": groups,
    }


def _cold(splits: Splits, targets: NDArray[np.int32]) -> dict[str, float]:
    cold = splits.popularity[targets] == 0
    return {"targets": len(targets), "never_trained": int(cold.sum()), "share": float(cold.mean())}


def _concentration(popularity: NDArray[np.int64]) -> dict[str, float]:
    """Shares of the training interactions with the most popular 1 % and 10 % of the items."""
    falling = np.sort(popularity)[::-1]
    total = falling.sum()
    return {
        f"top_{percent}_percent": float(falling[: max(1, len(falling) * percent // 100)].sum() / total)
        for percent in (1, 10)
    }


def _warnings(config: DatasetConfig, facts: dict[str, Any]) -> list[str]:
    """Warnings about properties of the dataset that could spoil a run."""
    found = []
    cold = facts["cold"]["test"]["share"]
    if cold > _MANY:
        found.append(
            f"{cold:.0%} of the test targets are never seen in training: a model knows them by their content alone."
        )
    images = facts["images"]
    if images is not None and images["share"] < 1 and config.missing_images == "fail":
        similar = images["similar_to_first_missing"]
        there = f" (but there is {similar!a})" if similar else ""
        found.append(
            f"{1 - images['share']:.1%} of the items have no image, the first {images['first_missing']}{there}: "
            "choose with --missing-images what to do about them."
        )
    if images is not None and images["unreadable"] and config.bad_images == "fail":
        found.append(f"{images['unreadable']} of the {images['opened']} images that were opened cannot be read.")
    for what, found_alike in (("titles", facts["alike_titles"]), ("images", (images or {}).get("alike"))):
        if found_alike and found_alike["items"] > _MANY * found_alike["compared"]:
            found.append(f"{found_alike['items']} of {found_alike['compared']} compared {what} are near-duplicates.")
    again = facts["duplicates"]["interactions_repeating_the_one_before"]
    if again > _MANY * facts["interactions"]:
        found.append(f"{again} interactions repeat the one before: predicting the last item again would score high.")
    return found
