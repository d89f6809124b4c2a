"""The one exception that a user can cause."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.utils.text import printable


class UserError(Exception):
    """Bad usage or bad input: one clear line that names the option, file, line or key. Exit status 2.

    What the line quotes from files may hold anything; it is made printable here, once for all.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file in front of the line of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
