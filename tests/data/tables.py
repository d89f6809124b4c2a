"""Writers of small datasets in the layouts table, recbole and microlens."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.data.catalogue import Catalogue
from bench.data.readers.table_dataset import FilesConfig, load_files

TITLES = {f"B{n}": f"Thing &amp; {n}, large" for n in range(30)}
USERS = {
    "long": [f"B{n}" for n in range(20)],
    "NA": ["B3", "B3", "B4", "B3", "B16"],
    "007": ["B21", "B22", "B23", "B24", "B25", "B1"],
    "short": ["B7", "B3"],
}
ROWS = [(user, item, 100 * n) for user, items in USERS.items() for n, item in enumerate(items)]


def write_csv(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def write_table(
    folder: Path, titles: Mapping[str, str] = TITLES, rows: Sequence[Sequence[Any]] = ROWS, timed: bool = True
) -> FilesConfig:
    write_csv(folder / "items.csv", ["item", "title"], list(titles.items()))
    names = ["user", "item", "timestamp"] if timed else ["user", "item"]
    write_csv(folder / "interactions.csv", names, [row[: len(names)] for row in rows])
    return FilesConfig("table", folder)


def write_recbole(
    folder: Path, titles: Mapping[str, str] = TITLES, rows: Sequence[Sequence[Any]] = ROWS
) -> FilesConfig:
    folder.mkdir(parents=True, exist_ok=True)
    items = "".join(f"{item}\tx y\t{title}\n" for item, title in titles.items())
    (folder / "a.item").write_text(f"item_id:token\tgenre:token_seq\tmovie_title:token_seq\n{items}", encoding="utf-8")
    pairs = "".join(f"{user}\t{item}\t4.0\t{time}\n" for user, item, time in rows)
    (folder / "a.inter").write_text(f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{pairs}")
    return FilesConfig("recbole", folder)


def write_microlens(
    folder: Path, titles: Mapping[str, str] = TITLES, rows: Sequence[Sequence[Any]] = ROWS
) -> FilesConfig:
    write_csv(folder / "MicroLens-50k_titles.csv", ["item", "title"], list(titles.items()))
    write_csv(folder / "MicroLens-50k_pairs.csv", ["user", "item", "timestamp"], rows)
    return FilesConfig("microlens", folder)


def text(config: FilesConfig) -> Catalogue:
    return load_files(config, None)
