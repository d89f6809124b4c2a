"""The ``report`` command: renders tables, figures and pages from the records of one or several runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.commands.arguments import add_options, integers
from bench.commands.score import add_scores, penalties
from bench.records import run_folder
from bench.utils.errors import UserError
from bench.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Writes report.md, report.html, figures/, results.csv and summary.csv from the records of one or several runs. "
        "A cell with damaged files is left out and named. If several runs hold the same cell, the last of them in "
        "which it ended ok counts. Exit status: 0 the report is written, however its cells ended; 2 bad usage or "
        "input, such as a folder without a readable record."
    )
    parser.epilog = "example: python run_bench.py report runs/seed0 runs/seed1 --out runs/both"
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN_DIR", help="run folder, or folder of the runs over several datasets"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default: RUN_DIR, if only one is given)"
    )
    parser.add_argument("--k", type=integers, metavar="5,10,20", help="cut-offs of HR, NDCG and MRR (default: 10)")
    add_options(parser, "within", "price_per_hour")
    add_scores(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the report of one or several run folders.

    Raises:
        UserError: several runs without ``--out``, or a folder has no readable record.
    """
    from reports.analysis.options import DEFAULT
    from reports.build import build
    from reports.load.run_folders import run_folders

    if len(args.runs) > 1 and args.out is None:
        raise UserError("report: several runs need --out DIR")
    out = args.out or args.runs[0]
    build(
        run_folders(args.runs),
        out,
        ks=args.k or DEFAULT.ks,
        weights=args.tpme_weights or DEFAULT.weights,
        reference=args.reference,
        penalties=penalties(args),
        within=args.within,
        price_per_hour=args.price_per_hour,
    )
    run_folder.reseal(out)
    print(f"report: {printable(out / 'report.md')}", file=sys.stderr)
    return 0
