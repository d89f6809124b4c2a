"""Says from time to time that the cell's process is alive, so that whoever started it can tell slow from hung."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

INTERVAL = 1.0


class Heartbeat:
    """Called wherever something has been got done; an event of it at most once a second.

    There is no thread behind it: one would go on saying so when nothing is done any more.
    """

    def __init__(self, report: Callable[[dict[str, Any]], Any], now: Callable[[], float] = monotonic):
        self._report, self._now = report, now
        self._last = now()

    def __call__(self) -> None:
        """Something has been got done."""
        at = self._now()
        if at - self._last >= INTERVAL:
            self._last = at
            self._report({"event": "alive"})
