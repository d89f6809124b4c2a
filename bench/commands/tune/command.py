"""What the ``tune`` command takes (``bench.commands.tune.tune`` does it).

Imports nothing heavy: --help answers at once.
"""

from __future__ import annotations

import argparse

from bench.commands.arguments import add_matrix, numbers, whole_number

DESCRIPTION = (
    "Every method gets the same number of trials and the same rules: each learning rate is drawn from --lr-range (on a "
    "log scale), each rank, bottleneck or number of positions from --sizes; other options stay as the recipe has them. "
    "The first trial is the recipe itself. A trial is a cell in a fresh process that never looks at the test targets; "
    "validation HR@10 decides. Leaves tuning.json and best.toml, a matrix for run --config. The same command goes on "
    "with a search that was stopped, and with more --trials extends it. Needs the extra [tune]. Exit status: 0 every "
    "method has a trial that ended ok; 1 not so, or stopped; 2 bad usage or input."
)
EPILOG = "example: python run_bench.py tune --shop-seed 100 --trials 8 --epochs 3 --out runs/tuning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options and its example."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add_matrix(parser)
    parser.add_argument(
        "--trials", type=whole_number(1), required=True, metavar="N", help="per method; trials that fail count"
    )
    parser.add_argument("--lr-range", type=_range, metavar="LOW,HIGH", help="default: 1e-5,1e-2")
    parser.add_argument(
        "--sizes", type=numbers(whole_number(1), "numbers"), metavar="A,B", help="default: 4,8,16,32,64"
    )
    parser.add_argument("--search-seed", type=whole_number(), default=0, metavar="N", help="of the draws (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Runs the search."""
    from bench.commands.tune.tune import tune

    return tune(args)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers separated by a comma, got {text!r}") from None
    return low, high
