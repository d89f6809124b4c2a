"""The ``doctor`` command: what on this machine would make the numbers wrong."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.arguments import add_options, add_recipe, request_of
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.commands.doctor.finding import Finding

# Nothing heavy is imported before the command is known to run: its --help must answer at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options and its example."""
    parser.description = (
        "Looks at this machine before a long run. Nothing is changed, nothing is fetched. "
        "Exit status: 0 nothing wrong, 1 something wrong."
    )
    parser.epilog = "example: python run_bench.py doctor --preset paper --device cuda:0"
    add_recipe(parser)
    add_options(parser, "data_dir", "text_model", "image_model", "device", "out", "json")


def run(args: argparse.Namespace) -> int:
    """Examines and prints; 1 if something is wrong.

    Raises:
        UserError: for anything wrong with the matrix.
    """
    from bench.commands.doctor.examine import examine
    from bench.config.matrix import build_method
    from bench.config.resolve import resolve

    found = resolve(request_of(args))
    matrix = found.matrices[0]
    for method in matrix.methods:
        build_method(method, found.origin)
    findings = examine(matrix, args.out or Path("runs"))
    if args.json:
        print(as_json([asdict(finding) for finding in findings]))
    else:
        print(show(findings))
    return 1 if any(finding.level == "wrong" for finding in findings) else 0


def show(findings: Sequence[Finding]) -> str:
    """One line per finding, what it does and what mends it below, and the count at the end."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:7}  {finding.check:{width}}  {printable(finding.finding)}")
        if finding.level != "ok":
            indent = " " * (9 + width + 2)
            lines += [f"{indent}effect: {printable(finding.effect)}", f"{indent}mend:   {printable(finding.mend)}"]
    counts = {level: sum(finding.level == level for finding in findings) for level in ("wrong", "warning", "ok")}
    lines += ["", ", ".join(f"{count} {level}" for level, count in counts.items())]
    return "\n".join(lines)
