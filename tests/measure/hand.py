"""A clock that a test turns by hand."""

from __future__ import annotations


class Hand:
    """A clock in nanoseconds that stands still until the test turns it."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)
