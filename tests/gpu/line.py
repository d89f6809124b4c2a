"""A line of the table: one figure, its limit, and whether the figure keeps to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

Status = Literal["ok", "failed", "skipped"]
Figure = float | str | None
TOY = "not judged: a figure of a toy on a CPU"
NEEDS_CARD = "needs a card"


class CheckError(Exception):
    """A check cannot give its figures; the message says why."""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        what: the figure in words.
        figure: its value with a unit; empty if there is none.
        limit: what the value is held against.
        status: ``skipped`` if the figure is unknown or is not judged.
        reason: why the line failed or was skipped, or what stands behind the figure.
    """

    what: str
    figure: str
    limit: str
    status: Status
    reason: str = ""

    def not_judged(self) -> Line:
        """The same line where its limit has no meaning, as that of a duration of a toy."""
        return replace(self, status="skipped", reason=TOY)


def at_most(what: str, figure: float | None, limit: float, unit: str = "", reason: str = "") -> Line:
    """Line of a figure that must not be above a limit; ``reason`` says why an unknown figure is unknown."""
    return _line(what, figure, lambda value: value <= limit, f"≤ {_text(limit, unit)}", unit, reason)


def at_least(what: str, figure: float | None, limit: float, unit: str = "", reason: str = "") -> Line:
    """Line of a figure that must not be below a limit."""
    return _line(what, figure, lambda value: value >= limit, f"≥ {_text(limit, unit)}", unit, reason)


def equal(what: str, figure: Figure, expected: float | str, reason: str = "") -> Line:
    """Line of a figure that has one right value."""
    return _line(what, figure, lambda value: value == expected, _text(expected, ""), "", reason)


def skipped(what: str, reason: str) -> Line:
    """Line without a figure."""
    return Line(what, "", "", "skipped", reason)


def failed(what: str, reason: str) -> Line:
    """Line whose figure could not be had although it must be."""
    return Line(what, "", "", "failed", reason)


def exit_status(lines: Iterable[Line]) -> int:
    """1 if a line failed, or if no line was judged at all; otherwise 0."""
    statuses = {line.status for line in lines}
    return int("failed" in statuses or "ok" not in statuses)


def _line(what: str, figure: Figure, keeps: Callable[..., bool], limit: str, unit: str, reason: str) -> Line:
    if figure is None:
        return Line(what, "", limit, "skipped", reason or "unknown")
    return Line(what, _text(figure, unit), limit, "ok" if keeps(figure) else "failed", reason)


def _text(value: float | str, unit: str) -> str:
    text = value if isinstance(value, str) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{text} {unit}".rstrip()
