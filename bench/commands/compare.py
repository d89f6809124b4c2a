"""The ``compare`` command: its options, a table for a terminal and the exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.arguments import add_options
from bench.utils.text import as_json as json_text
from bench.utils.text import printable

if TYPE_CHECKING:
    from reports.analysis.run_comparison import Ratio, RunComparison, Threshold

# Nothing heavy is imported before the command is known to run: its --help must answer at once.

EPILOG = 'example: python run_bench.py compare runs/before runs/after --fail-if "time>1.05" --fail-if "hr@10<0.95"'


DESCRIPTION = (
    "Compares each cell of RUN_B with the same cell of RUN_A. Exit status: 0 no regression; 1 a cell that ended ok in "
    "RUN_A did not end ok in RUN_B, or, with --fail-if, the whole interval of a ratio is beyond a threshold or a cell "
    "is missing from RUN_B; 2 bad usage or input, no cell in common, or runs of different machines, budgets, data or "
    "settings without --allow-different."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command and its example to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("first", type=Path, metavar="RUN_A", help="run that the ratios are relative to")
    parser.add_argument("second", type=Path, metavar="RUN_B", help="run that is judged")
    parser.add_argument(
        "--fail-if",
        nargs="+",
        action="extend",
        default=[],
        metavar="METRIC>RATIO",
        help="exit 1 if the whole interval of a ratio is beyond this limit, or a cell is missing from RUN_B; METRIC is "
        "time, params, memory, hr@k, ndcg@k or mrr@k, with > or <",
    )
    parser.add_argument(
        "--allow-different", action="store_true", help="compare even if machines, budgets, data or settings differ"
    )
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print the comparison of two runs.

    Returns:
        1 if a cell that had ended ok did not end ok again, or, with thresholds, if a cell is beyond one or missing;
        else 0.

    Raises:
        UserError: as `reports.analysis.run_comparison.compare` and `parse_threshold`.
    """
    from reports.analysis.run_comparison import as_json, compare, parse_threshold

    thresholds = [parse_threshold(text) for text in args.fail_if]
    comparison = compare(args.first, args.second, thresholds, args.allow_different)
    if args.json:
        print(json_text(as_json(comparison, thresholds)))
    else:
        for line in lines(comparison, thresholds):
            print(printable(line))
        for note in comparison.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
    failed = comparison.broken or (thresholds and (comparison.missing or comparison.regressions(thresholds)))
    return 1 if failed else 0


def lines(comparison: RunComparison, thresholds: Sequence[Threshold]) -> list[str]:
    """Lines for a terminal: a row of ratios per cell, then broken cells, missing cells and regressions."""
    metrics = list(dict.fromkeys(ratio.metric for ratio in comparison.ratios))
    cells: dict[str, dict[str, Ratio]] = {}
    for ratio in comparison.ratios:
        cells.setdefault(ratio.cell, {})[ratio.metric] = ratio
    rows = [["cell (RUN_B to RUN_A)", *metrics]]
    rows += [[printable(cell), *(words(found.get(metric)) for metric in metrics)] for cell, found in cells.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    text += [f"broken: {cell}" for cell in comparison.broken]
    text += [f"missing: {cell} is in RUN_A only" for cell in comparison.missing]
    text += [
        f"regression: {ratio.cell}: {ratio.metric} {words(ratio)} is beyond {limit.text}"
        for ratio, limit in comparison.regressions(thresholds)
    ]
    if thresholds and not comparison.regressions(thresholds):
        text.append("no regression: no whole interval is beyond a threshold")
    return text


def words(ratio: Ratio | None) -> str:
    """A ratio as text with its interval, with `(no interval)`, or alone if it is an exact count."""
    if ratio is None or ratio.ratio is None:
        return "unknown"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.ratio:.3f} (no interval)"
    return (
        f"{ratio.ratio:.3f}" if ratio.low == ratio.high else f"{ratio.ratio:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
    )
