"""Facts about a dataset as lines of text. Imports nothing heavy."""

from __future__ import annotations

from typing import Any


def rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of the facts as text, in the order of reading."""
    found = [
        ("dataset", f"{facts['name']}, digest {facts['digest'][:12]}"),
        ("users", f"{facts['users']:,}"),
        ("items", f"{facts['items']:,}"),
        ("interactions", f"{facts['interactions']:,}, {facts['train_interactions']:,} of them train"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in facts["dropped"].items() if count),
        ("split", _split(facts["split"])),
        ("sequence length", _spread(facts["lengths"])),
        ("words per title", _spread(facts["title_words"])),
        *((f"duplicates: {what.replace('_', ' ')}", f"{count:,}") for what, count in facts["duplicates"].items()),
        ("near-duplicate titles", _near_duplicates(facts["alike_titles"])),
        *_images(facts["images"]),
        *((f"{part} targets never trained on", _cold(facts["cold"][part])) for part in ("valid", "test")),
        ("training interactions of the most popular items", _popular(facts["popularity"])),
        *((f"test HR@10, NDCG@10 of {name}", _accuracy(values)) for name, values in facts["references"].items()),
    ]
    return found + [("note", note) for note in facts["notes"] if note not in facts["warnings"]]


def _split(split: dict[str, Any]) -> str:
    users = ", ".join(f"{split[f'{part}_users']:,} {part}" for part in ("train", "valid", "test"))
    when = f" at {split['valid_from']} and {split['test_from']}" if "valid_from" in split else ""
    return f"{split['kind']}{when}; users: {users}"


def _spread(values: dict[str, float]) -> str:
    quartiles = " / ".join(f"{values[name]:g}" for name in ("lower_quartile", "median", "upper_quartile"))
    return f"quartiles {quartiles}, from {values['min']:g} to {values['max']:g}"


def _near_duplicates(found: dict[str, Any]) -> str:
    cut = "" if found["complete"] else " (stopped by the time limit)"
    return f"{found['items']:,} of {found['compared']:,} compared, in {found['groups']:,} groups{cut}"


def _images(images: dict[str, Any] | None) -> list[tuple[str, str]]:
    if images is None:
        return [("images", "no folder of images: use --modality text, or name a folder with --image-dir")]
    opened = f"; {images['unreadable']:,} of {images['opened']:,} opened images cannot be read"
    return [
        ("items with an image", f"{images['items_with_an_image']:,}, {images['share']:.1%}{opened}"),
        ("near-duplicate images", _near_duplicates(images["alike"])),
    ]


def _cold(cold: dict[str, Any]) -> str:
    return f"{cold['never_trained']:,} of {cold['targets']:,}, {cold['share']:.1%}"


def _popular(popularity: dict[str, float]) -> str:
    return f"{popularity['top_1_percent']:.0%} with 1 % of the items, {popularity['top_10_percent']:.0%} with 10 %"


def _accuracy(values: dict[str, float]) -> str:
    return f"{values['hr@10']:.4f}, {values['ndcg@10']:.4f}"
