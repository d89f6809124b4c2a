"""Ctrl-C and SIGTERM while cells run: the first stops in good order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stoppable() -> Iterator[None]:
    """In the block SIGTERM raises KeyboardInterrupt as Ctrl-C does; after one of them the next ends this process.

    Its cells end with it, however it ends (``bench.launch.worker``).
    """

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(1)

    def in_order(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, at_once)
        print("stopping; once more stops at once", file=sys.stderr)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are handled there alone
        yield
        return
    before = {each: signal.signal(each, in_order) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
