"""The ``score`` command: TPME, PSCP or both of any table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.scoring import pscp, tpme
from bench.utils.errors import UserError

METRICS = ("tpme", "pscp", "both")


def score(
    path: Path,
    metric: str = "tpme",
    weights: Sequence[float] = tpme.WEIGHTS,
    reference: Path | None = None,
    penalties: pscp.Penalties | None = None,
) -> list[dict[str, Any]]:
    """Rows of the methods of a CSV file, best first; by TPME where there is one.

    TPME needs the columns method, time, params and memory, in any units; PSCP needs method, performance, params,
    extra_tflops and memory, where memory is in GB. A row has ``tpme``, or ``pscp`` with its three penalties, or both
    with the method's place by each (``tpme_place``, ``pscp_place``, from 1).

    Raises:
        UserError: an unknown metric; as `bench.scoring.tpme.score` and `bench.scoring.pscp.score`.
    """
    if metric not in METRICS:
        raise UserError(f"--metric {metric}: expected one of {', '.join(METRICS)}")
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
    factors = {f"penalty_{name}": value for name, value in zip(pscp.COSTS, score.penalties, strict=True)}
    return {"pscp": score.score, "performance": score.performance, **factors}
