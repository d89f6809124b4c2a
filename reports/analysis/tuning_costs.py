"""The searches that the options of a comparison come from."""

from __future__ import annotations

from bench.records.tuned import Tuned
from reports.analysis.comparison import Block


def costs(block: Block) -> dict[str, Tuned]:
    """The search of each method that had one, in the order of the tables."""
    found = {record.row["method"]: record.tuned for record in block.records if record.tuned is not None}
    return {method: found[method] for method in block.methods if method in found}
