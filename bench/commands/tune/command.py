"""The options of the ``tune`` command; :mod:`bench.commands.tune.tune` runs it.

Imports nothing heavy: --help must answer at once.
"""

from __future__ import annotations

import argparse

from bench.commands.arguments import add_matrix, numbers, whole_number

DESCRIPTION = (
    "Searches the learning rates and sizes of each method, with the same number of trials and the same rules for all: "
    "learning rates are drawn from --lr-range (on a log scale), ranks, bottlenecks and numbers of positions from "
    "--sizes; the first trial uses the values of the preset or matrix file, and other options keep them. A trial is a "
    "cell in a fresh process that never evaluates the test targets; the best validation HR@10 wins. Writes tuning.json "
    "and best.toml, a matrix file for run --config. The same command resumes a search that was stopped; with more "
    "--trials it extends the search. Needs the extra [tune]. Exit status: 0 every method has a trial that ended ok; 1 "
    "some method has none, or the search was stopped; 2 bad usage or input."
)
EPILOG = "example: python run_bench.py tune --shop-seed 100 --trials 8 --epochs 3 --out runs/tuning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add_matrix(parser)
    parser.add_argument(
        "--trials",
        type=whole_number(1),
        required=True,
        metavar="N",
        help="number of trials per method; failed trials count",
    )
    parser.add_argument(
        "--lr-range",
        type=_range,
        metavar="LOW,HIGH",
        help="lowest and highest learning rate of the search (default: 1e-5,1e-2)",
    )
    parser.add_argument(
        "--sizes",
        type=numbers(whole_number(1), "numbers"),
        metavar="A,B",
        help="values of ranks, bottlenecks and numbers of positions in the search (default: 4,8,16,32,64)",
    )
    parser.add_argument(
        "--search-seed", type=whole_number(), default=0, metavar="N", help="random seed of the search (default: 0)"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the search and returns the exit status of :func:`bench.commands.tune.tune.tune`."""
    from bench.commands.tune.tune import tune

    return tune(args)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers separated by a comma, got {text!r}") from None
    return low, high
