"""The ``score`` command: TPME, PSCP or both for the methods of a CSV table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import add_options
from bench.utils.errors import UserError
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.scoring import pscp

# pandas is not imported before the command runs: --help must answer at once.

METRICS = ("tpme", "pscp", "both")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Computes TPME, PSCP or both for the methods of a table and prints them, best first. TPME needs the columns "
        "method, time, params and memory, in any units; PSCP needs method, performance, params, extra_tflops and "
        "memory (in GB)."
    )
    parser.epilog = "example: python run_bench.py score published.csv --json"
    parser.add_argument("table", type=Path, metavar="TABLE.csv", help="table with one row per method")
    parser.add_argument("--metric", choices=METRICS, default="tpme", help="score to compute (default: tpme)")
    add_scores(parser)
    add_options(parser, "json")


def add_scores(parser: argparse.ArgumentParser) -> None:
    """Adds the options on TPME and PSCP of ``score`` and ``report``."""
    add_options(parser, "tpme_weights", "reference", "pscp_constants", "pscp_exponents")


def penalties(args: argparse.Namespace) -> pscp.Penalties:
    """Constants and exponents of PSCP, from the options that :func:`add_scores` adds."""
    from bench.scoring.pscp import Penalties

    given = {"constants": args.pscp_constants, "exponents": args.pscp_exponents}
    return Penalties(**{name: values for name, values in given.items() if values is not None})


def run(args: argparse.Namespace) -> int:
    """Prints the scores of a table and returns exit status 0.

    Raises:
        UserError: as :func:`score`.
    """
    rows = score(args.table, args.metric, args.tpme_weights, args.reference, penalties(args))
    if args.json:
        print(as_json(rows))
        return 0
    names = [printable(row["method"]) for row in rows]
    width = max(6, *map(len, names))
    shown = [name for name in ("tpme", "pscp") if name in rows[0]]
    print("  ".join([f"{'method':{width}}", *(f"{name.upper():>7}" for name in shown)]))
    for method, row in zip(names, rows, strict=True):
        # TPME is a share of the comparison's range; PSCP has the unit of the performance that it penalises.
        figures = {"tpme": f"{row.get('tpme', 0):7.2%}", "pscp": f"{row.get('pscp', 0):7.2f}"}
        print("  ".join([f"{method:{width}}", *(figures[name] for name in shown)]))
    return 0


def score(
    path: Path,
    metric: str = "tpme",
    weights: Sequence[float] | None = None,
    reference: Path | None = None,
    penalties: pscp.Penalties | None = None,
) -> list[dict[str, Any]]:
    """Scores of the methods of a CSV file, a row per method, best first; for "both" sorted by TPME.

    TPME needs the columns method, time, params and memory, in any units; PSCP needs method, performance, params,
    extra_tflops and memory, with memory in GB.

    Returns:
        Rows with ``tpme``, or with ``pscp`` and its three penalties, or with both scores and the method's rank by each
        (``tpme_place``, ``pscp_place``, from 1).

    Raises:
        UserError: the metric is unknown; also as `bench.scoring.tpme.score` and `bench.scoring.pscp.score`.
    """
    from bench.scoring import pscp, tpme

    if metric not in METRICS:
        raise UserError(f"--metric {metric}: expected one of {', '.join(METRICS)}")
    weights = weights or tpme.WEIGHTS
    if metric == "tpme":
        return tpme.score(path, weights, reference)
    penalised = pscp.score(path, penalties)
    ranked = pscp.order_of(penalised)
    if metric == "pscp":
        return [{"method": name, **_penalised(penalised[name])} for name in ranked]
    rows = tpme.score(path, weights, reference)
    return [
        {
            **row,
            **_penalised(penalised[row["method"]]),
            "tpme_place": place,
            "pscp_place": ranked.index(row["method"]) + 1,
        }
        for place, row in enumerate(rows, 1)
    ]


def _penalised(score: pscp.Penalised) -> dict[str, float]:
    from bench.scoring import pscp

    factors = {f"penalty_{name}": value for name, value in zip(pscp.COSTS, score.penalties, strict=True)}
    return {"pscp": score.score, "performance": score.performance, **factors}
