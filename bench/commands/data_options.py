"""The options that say which dataset, for every command that reads one. Imports nothing heavy."""

from __future__ import annotations

import argparse

_COLUMN_HELP = {
    "user": "column of table, recbole and microlens files (default: user; recbole: user_id)",
    "item": "in both files (default: item; recbole: item_id)",
    "title": "default: title; recbole: the first of title, name and their like",
    "timestamp": "default: timestamp where there is one, or else the order of the rows",
    "image": "file name of an item's picture below the folder (default: image where there is one)",
}
# Command-line option -> place in the dataset's table of a matrix.
PLACES: dict[str, tuple[str, ...]] = {
    "dataset": ("name",),
    "shop_seed": ("seed",),
    "data_dir": ("data_dir",),
    "image_dir": ("image_dir",),
    "missing_images": ("missing_images",),
    "bad_images": ("bad_images",),
    **{f"{role}_column": ("columns", role) for role in _COLUMN_HELP},
    "split": ("split",),
    "valid_from": ("valid_from",),
    "test_from": ("test_from",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which dataset, where its pictures are, what its columns are called, and how it is split."""
    parser.add_argument("--dataset", help="shop, amazon, table, recbole or microlens, see list")
    parser.add_argument("--shop-seed", type=int, metavar="N", help="another generated shop")
    parser.add_argument(
        "--image-dir", metavar="DIR", help="folder with <item>.jpg (default: images/ in the data folder)"
    )
    parser.add_argument("--missing-images", help="images that are not there: fail, drop-item or mean-image")
    parser.add_argument("--bad-images", help="images that cannot be read: fail, drop-item or mean-image")
    for role, text in _COLUMN_HELP.items():
        parser.add_argument(f"--{role}-column", metavar="NAME", help=text)
    parser.add_argument("--split", help="leave-one-out (default), or temporal with --valid-from and --test-from")
    parser.add_argument("--valid-from", metavar="T", help="first moment that is not trained on: a number or a date")
    parser.add_argument("--test-from", metavar="T", help="first moment of the test")
