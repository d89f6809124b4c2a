"""Section on torch.compile: its cost and graphs, and a note on figures that are of eager steps nevertheless."""

from __future__ import annotations

from collections.abc import Sequence

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import Read, figure, per_seed, spread
from reports.text import count, escape, number, table


def of_eager_steps(comparison: Comparison) -> str:
    """Note that account, plan and FLOPs are not those of the timed steps; empty if steps were not compiled."""
    if not comparison.compiled:
        return ""
    return (
        "The timed steps were compiled (--compile). The account of memory, the plan, the FLOPs and the operators are "
        "those of an eager step; a compiled step keeps other tensors and computes other operations."
    )


def section(comparison: Comparison, methods: Sequence[str]) -> str:
    """Table of what torch compiled; empty if nothing was compiled.

    Args:
        comparison: Comparison with the records.
        methods: Methods with a cell that ended ok.
    """
    compiled = [method for method in methods if per_seed(comparison, method, _read("graphs"))]
    if not compiled:
        return ""
    rows = [
        [
            escape(method),
            *(spread(per_seed(comparison, method, _read(key)), words) for key, words in _COLUMNS.values()),
        ]
        for method in compiled
    ]
    return f"{_LEGEND}\n\n{table(['Method', *_COLUMNS], rows)}"


def _read(key: str) -> Read:
    return lambda record: figure(record.compile, key)


def _seconds(value: float) -> str:
    return f"{number(value)} s"


_COLUMNS = {
    "Compiling": ("seconds", _seconds),
    "Graphs": ("graphs", count),
    "From torch's cache": ("from_cache", count),
    "Graph breaks": ("graph_breaks", count),
    "While steps were timed": ("timed", count),
    "Their time": ("timed_seconds", _seconds),
}
_LEGEND = (
    "torch.compile: “Compiling” is the time of compilation before the clock started, which is part of no other figure "
    "(less if graphs came from torch's cache on disk, which cells share). “While steps were timed” counts compilations "
    "within timed steps; their time is part of the step times."
)
