"""Handling of Ctrl-C and SIGTERM while cells run: the first stops the run in order, the second exits at once."""

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
    """Context in which SIGTERM raises KeyboardInterrupt as Ctrl-C does, and a second signal ends the process at once.

    Running cells end with this process in either case (``bench.launch.worker``). No-op outside of the main thread.
    """

    def exit_at_once(number: int, frame: FrameType | None) -> None:
        os._exit(1)

    def interrupt(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, exit_at_once)
        print("stopping the running cells; a second Ctrl-C or SIGTERM exits at once", file=sys.stderr)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # Python allows signal handlers only there
        yield
        return
    previous = {each: signal.signal(each, interrupt) for each in SIGNALS}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
