"""The ``doctor`` command: its options, the printed findings and the exit status."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.arguments import DATASET, add_options, add_recipe, request_of
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.commands.doctor.finding import Finding

# Heavy imports are inside functions: --help must answer at once.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Examines this machine for conditions that make the measurements of a run wrong. Changes nothing and downloads "
        "nothing. Each finding has its effect on the measurements and the command that fixes it. Exit status: 0 "
        "nothing is wrong; 1 something is wrong; 2 bad usage or input."
    )
    parser.epilog = "example: python run_bench.py doctor --preset paper --device cuda:0"
    add_recipe(parser)
    add_options(parser, "data_dir", *DATASET, "text_model", "image_model", "device")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder that the run will write to (default: runs)")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Examines this machine for a matrix and prints the findings.

    Returns:
        Exit status: 1 if a finding is wrong, otherwise 0.

    Raises:
        UserError: the matrix is invalid.
    """
    from bench.commands.doctor.examine import examine
    from bench.config.matrix import build_method
    from bench.config.resolve import resolve

    resolved = resolve(request_of(args))
    matrix = resolved.matrices[0]
    for method in matrix.methods:
        build_method(method, resolved.origin)
    findings = examine(matrix, args.out or Path("runs"))
    if args.json:
        print(as_json([asdict(finding) for finding in findings]))
    else:
        print(show(findings))
    return 1 if any(finding.level == "wrong" for finding in findings) else 0


def show(findings: Sequence[Finding]) -> str:
    """Findings as text: a line each, below it the effect and the fix unless it is ok; at the end the counts."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:7}  {finding.check:{width}}  {printable(finding.finding)}")
        if finding.level != "ok":
            indent = " " * (9 + width + 2)
            lines += [f"{indent}effect: {printable(finding.effect)}", f"{indent}fix:    {printable(finding.mend)}"]
    counts = {level: sum(finding.level == level for finding in findings) for level in ("wrong", "warning", "ok")}
    lines += ["", ", ".join(f"{count} {level}" for level, count in counts.items())]
    return "\n".join(lines)
