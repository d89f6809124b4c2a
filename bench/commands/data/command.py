"""The ``data`` command: facts about a dataset, and warnings about properties that could spoil a long run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import DATASET, add_options, given_values
from bench.commands.data.summary import rows
from bench.data.kinds import GENERATED, KINDS
from bench.utils.errors import UserError
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.config.validation_messages import KeyPath
    from bench.data.config import DatasetConfig

# Heavy imports are inside functions: --help must answer at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Reads and splits a dataset as a run would, and reports what was left out and why, lengths of sequences, "
        "duplicates and near-duplicates, test targets that training never sees, and the accuracy of a popularity "
        "ranking. With --missing-images or --bad-images every picture is decoded, and items are left out as these "
        "options say. Exit status: 0, or 2 if a run could not start with these data."
    )
    parser.epilog = "example: python run_bench.py data DIR --dataset table --out checks/mine"
    parser.add_argument(
        "data_dir", nargs="?", metavar="DIR", help="folder of the dataset's files (default: the generated shop)"
    )
    add_options(parser, *DATASET)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for data.md with figures, and data.json")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Examines the dataset and prints the facts.

    Raises:
        UserError: an option or a file of the dataset is wrong.
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
    given = given_values(args, DATASET)
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
        table["name"] = args.dataset or _kind_of(Path(args.data_dir))
        if table["name"] == GENERATED:
            raise UserError(
                f"{args.data_dir}: the shop is generated and reads no folder; leave out the folder or --dataset shop"
            )
    dataset = parse_dataset(table, flags)
    check_dataset(dataset.name, flags)
    return dataset


def _kind_of(folder: Path) -> str:
    """Kind of the dataset in a folder, by the names of its files.

    Raises:
        UserError: no kind fits, or more than one.
    """
    signs = {kind.name: kind.sign for kind in KINDS.values() if kind.sign is not None}
    found = [name for name, sign in signs.items() if any(folder.glob(sign))]
    if len(found) != 1:
        what = " and ".join(found) or "no known dataset"
        raise UserError(f"{folder}: looks like {what}; choose with --dataset: {', '.join(signs)}")
    return found[0]


def show(facts: dict[str, Any]) -> str:
    """Facts as text: warnings first, then one line with a name and a value per fact."""
    lines = rows(facts)
    width = max(len(name) for name, _ in lines)
    text = [f"warning: {warning}" for warning in facts["warnings"]] + [""] * bool(facts["warnings"])
    text += [f"{name:{width}}  {value}" for name, value in lines]
    return "\n".join(map(printable, text))
