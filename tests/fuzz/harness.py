"""What every property shares: how many cases, a stop for what hangs, and what may come of a hostile input."""

import functools
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hypothesis import settings

from bench.utils.errors import UserError

TRIED: Counter[str] = Counter()
"""Cases by kind of input, in this process."""
HANGS_AFTER = 180
"""Seconds; the slowest case takes one or two."""


def cases(kind: str, share: float = 1.0) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A property over a share of the profile's number of cases, each counted and stopped when it hangs."""

    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            with _stopped():
                test(*args, **kwargs)
            TRIED[kind] += 1  # not those that hypothesis gave up as impossible

        return counted

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        most = max(1, round(settings.default.max_examples * share))  # type: ignore[union-attr]
        return settings(max_examples=most)(test)

    return lambda test: decorate(wrap(test))


@contextmanager
def _stopped() -> Iterator[None]:
    def hung(_: int, __: FrameType | None) -> None:
        raise AssertionError(f"hangs: no answer within {HANGS_AFTER} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HANGS_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def answered(call: Callable[[], Any], *names: str) -> Any:
    """The result, or None for a refusal in one line that holds one of the names. Anything else is a bug."""
    try:
        return call()
    except UserError as error:
        said = str(error)
        assert said.strip()
        assert said.isprintable(), said
        assert not names or any(name in said for name in names), said
        return None
