"""The searches that the options of a comparison come from."""

from __future__ import annotations

from bench.records.tuned import Tuned
from reports.analysis.comparison import Comparison


def costs(comparison: Comparison) -> dict[str, Tuned]:
    """The search of each method that had one, in the order of the tables."""
    found = {record.row["method"]: record.tuned for record in comparison.records if record.tuned is not None}
    return {method: found[method] for method in comparison.methods if method in found}
