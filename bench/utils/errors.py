"""`UserError`, the exception for bad usage and bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.utils.text import printable


class UserError(Exception):
    """Bad usage or bad input: one clear line that names the option, file, line or key. Exit status 2.

    The line may quote arbitrary text from files, so the constructor makes it printable.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix a UserError that the block raises with the path of a file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
