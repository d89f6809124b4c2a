"""Heartbeat of a cell's process, which lets the supervisor tell a slow cell from a hung one."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

INTERVAL = 1.0


class Heartbeat:
    """Rate-limited liveness event, at most one per second; call it after each unit of work.

    It has no thread: a thread would report life even when the work hangs.

    Args:
        report: called with the event.
        now: clock, in seconds.
    """

    def __init__(self, report: Callable[[dict[str, Any]], Any], now: Callable[[], float] = monotonic):
        self._report, self._now = report, now
        self._last = now()

    def __call__(self) -> None:
        """Report the event, unless the last one is less than ``INTERVAL`` seconds old."""
        now = self._now()
        if now - self._last >= INTERVAL:
            self._last = now
            self._report({"event": "alive"})
