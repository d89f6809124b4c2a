"""The ``data`` command: what is in a dataset, and what of it could spoil a long run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import DATASET, add_options, given_places
from bench.commands.data.summary import rows
from bench.data.kinds import GENERATED, KINDS
from bench.utils.errors import UserError
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.config.validation_messages import KeyPath
    from bench.data.config import DatasetConfig

# Nothing heavy is imported before the command is known to run: its --help must answer at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options and its example."""
    parser.description = (
        "Reads and splits a dataset as a run would, and says what was left out and why, how long sequences are, what "
        "is there twice or almost, which test targets training never sees, and what popularity alone reaches. With "
        "--missing-images or --bad-images every picture is decoded, and the rest is as these options leave it. Exit "
        "status: 0, or 2 where a run could not start."
    )
    parser.epilog = "example: python run_bench.py data DIR --dataset table --out checks/mine"
    parser.add_argument("data_dir", nargs="?", metavar="DIR", help="folder of the dataset's files (default: the shop)")
    add_options(parser, *DATASET)
    parser.add_argument("--out", type=Path, metavar="DIR", help="writes data.md with figures, and data.json, there")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Examines and prints.

    Raises:
        UserError: for anything wrong with options or files.
    """
    from bench.commands.data.dataset_check import examine

    config = _config(args)
    print(f"data: reading {printable(config.data_dir or 'the shop')}", file=sys.stderr)
    found = examine(config)
    if args.out is not None:
        from bench.commands.data.datasheet import write

        write(found, args.out)
        print(f"data: {printable(args.out / 'data.md')}", file=sys.stderr)
    if args.json:
        print(as_json(found.facts))
    else:
        print(show(found.facts))
    return 0


def _config(args: argparse.Namespace) -> DatasetConfig:
    from bench.config.applicable import check_dataset
    from bench.config.matrix import parse_dataset

    table: dict[str, Any] = {}
    flags: dict[KeyPath, str] = {}
    given = given_places(args, DATASET)
    if args.data_dir is not None:
        given["dataset", "data_dir"] = args.data_dir, "DIR"
    for (_, *place), (value, flag) in given.items():  # key paths begin with "dataset"
        *tables, key = map(str, place)
        inner = table
        for name in tables:
            inner = inner.setdefault(name, {})
        inner[key] = value
        flags[tuple(place)] = flag
    if args.data_dir is not None:
        if not Path(args.data_dir).is_dir():
            raise UserError(f"{args.data_dir}: no such folder")
        table["name"] = args.dataset or _recognised(Path(args.data_dir))
        if table["name"] == GENERATED:
            raise UserError(f"{args.data_dir}: the shop is generated and reads no folder; leave one of the two out")
    dataset = parse_dataset(table, flags)
    check_dataset(dataset.name, flags)
    return dataset


def _recognised(folder: Path) -> str:
    """The dataset whose files are in a folder.

    Raises:
        UserError: none, or several could be meant.
    """
    signs = {kind.name: kind.sign for kind in KINDS.values() if kind.sign is not None}
    found = [name for name, sign in signs.items() if any(folder.glob(sign))]
    if len(found) != 1:
        what = " and ".join(found) or "no known dataset"
        raise UserError(f"{folder}: looks like {what}; --dataset names one of {', '.join(signs)}")
    return found[0]


def show(facts: dict[str, Any]) -> str:
    """The facts as lines of a name and a value, warnings first."""
    lines = rows(facts)
    width = max(len(name) for name, _ in lines)
    text = [f"warning: {warning}" for warning in facts["warnings"]] + [""] * bool(facts["warnings"])
    text += [f"{name:{width}}  {value}" for name, value in lines]
    return "\n".join(map(printable, text))
