"""Functions for calls in other processes, which import them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

Progress = Callable[..., Any]


class Odd(Exception):
    """Error that cannot be made again from its text alone."""

    def __init__(self, part: str, text: str):
        super().__init__(f"{part}: {text}")


def count(limit: int, progress: Progress) -> dict[str, int]:
    for number in range(limit):
        progress("text", number, limit)
    return {"sum": sum(range(limit)), "process": os.getpid()}


def fail(error: Exception, progress: Progress) -> None:
    raise error


def fail_oddly(progress: Progress) -> None:
    raise Odd("text", "no memory")


def leave(status: int, progress: Progress) -> None:
    os._exit(status)


def die(number: int, progress: Progress) -> None:
    os.kill(os.getpid(), number)
