"""What compiling the steps took, how whole they came out, and what in a report is of eager steps all the same."""

from __future__ import annotations

from collections.abc import Sequence

from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import Read, figure, per_seed, spread
from reports.text import count, escape, number, table


def of_eager_steps(comparison: Comparison) -> str:
    """That account, plan and FLOPs are not of the steps that were timed; empty where nothing was compiled."""
    if not comparison.compiled:
        return ""
    return (
        "Steps were timed compiled (--compile). The account of memory, the plan and the FLOPs are those of an eager "
        "step: a compiled one keeps and computes other things."
    )


def section(comparison: Comparison, methods: Sequence[str]) -> str:
    """A table of what torch compiled; empty where nothing was.

    Args:
        methods: those with a cell that ended ok.
    """
    told = [method for method in methods if per_seed(comparison, method, _read("graphs"))]
    if not told:
        return ""
    rows = [
        [
            escape(method),
            *(spread(per_seed(comparison, method, _read(key)), words) for key, words in _COLUMNS.values()),
        ]
        for method in told
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
    "What torch.compile made of a step: the seconds that compiling took before the clock started, which are in no "
    "other figure (less where graphs came from torch's cache on disk, which later cells share with earlier ones), and "
    "compilations that fell into timed steps, whose seconds are in the step times."
)
