"""Advisory locks on open files: who builds, who reads. The system drops them with the process, however it ends.

They are ``flock`` locks and belong to the open file: a memory map of it keeps its lock for as long as the map lives.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def share(file: IO[Any]) -> None:
    """Marks a file as in use. On a disk without locks nobody is told, and reading goes on all the same."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


def try_own(file: IO[Any]) -> bool:
    """Whether this process got the file for itself; it must be open for writing.

    Raises:
        OSError: the disk has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def owned(path: Path) -> Iterator[None]:
    """Waits until this process has a lock file for itself; the file stays. Raises OSError."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def unused(paths: Iterable[Path]) -> Iterator[bool]:
    """Whether nobody builds or reads any of these files; while the block runs nobody starts to."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(path.open("r+b")) for path in paths if path.is_file()]
            free = all(try_own(file) for file in files)
        except OSError:  # not ours to change, or no locks
            free = False
        yield free


def is_at(file: IO[Any], path: Path) -> bool:
    """Whether an open file is still the one that bears this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
