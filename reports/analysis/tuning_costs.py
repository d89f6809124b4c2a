"""Cost of tuning: the searches that chose the options of the methods of a comparison."""

from __future__ import annotations

from bench.records.tuned import Tuned
from reports.analysis.comparison import Comparison


def costs(comparison: Comparison) -> dict[str, Tuned]:
    """Search of each tuned method, in the order of the tables."""
    found = {record.row["method"]: record.tuned for record in comparison.records if record.tuned is not None}
    return {method: found[method] for method in comparison.methods if method in found}
