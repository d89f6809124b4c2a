"""Energy of a card over the periods between pauses, from its energy counter or from its power.

The counter is updated about every 100 ms, so a period that starts and ends at any moment is wrong by up to an update at
each end: it lacks its own last energy and has that of the pause before. Periods therefore start and end at an update,
and the energy of the wait after the end is taken off, as far as the power of the moment is known.
"""

from __future__ import annotations

from typing import Literal

# Periods of a mean length below this, in seconds, have an energy only from a counter with both ends at an update and
# with the wait taken off: the error of the other ways is a part of a second, at the power of the pauses.
SHORT_PERIOD = 2.0


class EnergyTotals:
    """Energy over periods of time, by the card's counter and by the integral of power."""

    def __init__(self) -> None:
        self._counted = 0
        self._idle = 0.0
        self._counter_valid = True
        self._settled = True
        self._counter: int | None = None
        self._integral: float | None = None
        self._power: tuple[float, float] | None = None

    def begin(self, ticked: bool) -> None:
        """Start a new period; energy since the last sample is not counted.

        Args:
            ticked: True if the counter was just updated.
        """
        self._counter = self._power = None
        self._settled = self._settled and ticked

    def add(self, at: float, counter: int | None, watts: float | None) -> None:
        """Add a sample, in seconds, millijoules and watts; None is unknown."""
        self._count(counter)
        if watts is None:
            return
        if self._power is not None:
            since, before = self._power
            self._integral = (self._integral or 0.0) + (at - since) * (before + watts) / 2
        self._power = (at, watts)

    def settle(self, counter: int | None, idle: float, ticked: bool) -> None:
        """End a period after the wait for an update of the counter.

        Args:
            counter: its value after the wait, in millijoules; None if unknown.
            idle: joules of the wait; 0 if unknown.
            ticked: True if the counter was updated during the wait.
        """
        self._count(counter)
        self._idle += idle
        self._settled = self._settled and ticked and idle > 0

    def joules(self, mean_period: float) -> tuple[float | None, Literal["counter", "power"] | None]:
        """Energy of all periods and its source, None if it is unknown.

        Args:
            mean_period: mean length of the periods in seconds.
        """
        long = mean_period >= SHORT_PERIOD
        # A counter that has not moved means only that the time was shorter than its update interval.
        if self._counter_valid and self._counted > 0 and (long or self._settled):
            return max(0.0, self._counted / 1000 - self._idle), "counter"
        return (self._integral, "power") if self._integral is not None and long else (None, None)

    def _count(self, counter: int | None) -> None:
        if counter is None:
            self._counter_valid = False
        elif self._counter is not None:
            # A counter that goes backwards has wrapped or was reset; the energy counted in between is lost.
            self._counter_valid = self._counter_valid and counter >= self._counter
            self._counted += counter - self._counter
        self._counter = counter
