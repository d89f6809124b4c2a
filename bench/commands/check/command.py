"""The ``check`` command: runs the conformance checks of the method contract on methods."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.commands.arguments import add_options, names
from bench.utils.errors import UserError
from bench.utils.text import as_json

# Heavy imports are inside functions: --help must answer at once.

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Checks that methods keep the contract of every method here, on tiny random encoders, in seconds and without "
        "data. Exit status: 0 all checks passed; 1 some check failed; 2 bad usage or input."
    )
    parser.epilog = "example: python run_bench.py check my.py"
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="MY.py", help="Python files with the methods to check; they are run"
    )
    parser.add_argument(
        "--methods", type=names, metavar="A,B", help="names of further methods to check, built in or installed"
    )
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Checks the methods and prints a line per check as soon as it is done.

    Returns:
        Exit status: 1 if a check failed, otherwise 0.

    Raises:
        UserError: no method is given, or a method cannot be loaded.
    """
    if not (args.methods or args.files):
        raise UserError("check: name a method file, or methods with --methods")
    from bench.commands.check.conformance import check, load_methods

    rows: list[Row] = []
    for name, import_changes in load_methods(args.files, args.methods or []).items():
        if not args.json:
            print(name)
        its_rows: list[Row] = []
        for outcome, seconds in check(name, import_changes):
            its_rows.append({"method": name, **asdict(outcome), "seconds": seconds})
            if not args.json:
                print(_lines(its_rows[-1]), flush=True)
        if not args.json:
            print(_summary(its_rows))
        rows += its_rows
    if args.json:
        print(as_json(rows))
    return 1 if any(row["status"] == "failed" for row in rows) else 0


def _lines(row: Row) -> str:
    """A line with the status, the name and the finding (or requirement) of a check, and a line with the advice."""
    head = f"  {row['status']:7}  {row['check']:18}  "
    lines = [head + _one_line(row["finding"] or row["asks"])]
    if row["advice"]:
        lines.append(" " * len(head) + "do: " + _one_line(row["advice"]))
    return "\n".join(lines)


def _summary(rows: Sequence[Row]) -> str:
    """Number of passed, failed and skipped checks, and their time."""
    counts = {status: sum(row["status"] == status for row in rows) for status in ("passed", "failed", "skipped")}
    text = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"  {text} in {sum(row['seconds'] for row in rows):.1f} s\n"


def _one_line(text: str) -> str:
    """Text of other programs with line breaks and control characters as spaces, so that a terminal shows one line."""
    return "".join(character if character.isprintable() else " " for character in text)
