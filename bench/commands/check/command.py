"""The ``check`` command: does a method keep the contract."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.commands.arguments import add_options
from bench.utils.errors import UserError
from bench.utils.text import as_json

# Nothing heavy is imported before the command is known to run: its --help must answer at once.

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options and its example."""
    parser.description = (
        "Runs the contract that every method here keeps on tiny random encoders, in seconds, without data. "
        "Exit status: 0 all passed, 1 some check failed."
    )
    parser.epilog = "example: python run_bench.py check my.py"
    parser.add_argument("files", nargs="*", type=Path, metavar="MY.py", help="method files; they are run")
    add_options(parser, "methods", "json")


def run(args: argparse.Namespace) -> int:
    """Checks and prints, a line per check as it is done; 1 if one failed.

    Raises:
        UserError: no method, or one that cannot be had.
    """
    names = args.methods or []
    if not (names or args.files):
        raise UserError("check: name a method file, or methods with --methods")
    from bench.commands.check.conformance import check, load_methods

    rows: list[Row] = []
    for name, changed in load_methods(args.files, names).items():
        if not args.json:
            print(name)
        mine: list[Row] = []
        for outcome, seconds in check(name, changed):
            mine.append({"method": name, **asdict(outcome), "seconds": seconds})
            if not args.json:
                print(_lines(mine[-1]), flush=True)
        if not args.json:
            print(_sum(mine))
        rows += mine
    if args.json:
        print(as_json(rows))
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _lines(row: Row) -> str:
    """What is asked, or what was found, and below it what to do."""
    head = f"  {row['status']:7}  {row['check']:18}  "
    lines = [head + _line(row["finding"] or row["asks"])]
    if row["advice"]:
        lines.append(" " * len(head) + "do: " + _line(row["advice"]))
    return "\n".join(lines)


def _sum(rows: Sequence[Row]) -> str:
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "skipped")}
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"  {said} in {sum(row['seconds'] for row in rows):.1f} s\n"


def _line(text: str) -> str:
    """Names and messages of others, without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else " " for character in text)
