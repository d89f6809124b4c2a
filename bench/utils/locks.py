"""Advisory locks on open files (``flock``): exclusive for building and running, shared for reading.

The operating system releases a lock when the process ends, even if it is killed. The package ``filelock`` is not used
because it has no shared lock on a file that is already open: a memory map keeps the descriptor of its file open, and
with it the shared lock, for as long as the map lives, which protects the file from removal by another process.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def share(file: IO[Any]) -> None:
    """Mark a file as being read. On a disk without locks reading goes on unmarked."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_SH)


def try_exclusive(file: IO[Any]) -> bool:
    """Lock a file exclusively without waiting; False if another holder has it. The file must be open for writing.

    Raises:
        OSError: the disk has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file exclusively while the block runs. Its folder and the file are made if absent, and stay.

    Args:
        path: the lock file.
        wait: wait for the present holder instead of raising.

    Raises:
        BlockingIOError: another holder has the lock and ``wait`` is False.
        OSError: the file cannot be made, or the disk has no locks.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_at(file, path):
                continue  # the previous holder removed the file: a lock on it excludes no newcomer
            try:
                yield
            finally:
                # Closing is not enough: a forked child may have inherited the descriptor.
                fcntl.flock(file, fcntl.LOCK_UN)
            return


@contextmanager
def unused(paths: Iterable[Path]) -> Iterator[bool]:
    """Lock these files while the block runs; gives True if that worked, so no process builds or reads any of them."""
    with ExitStack() as stack:
        try:
            files = [stack.enter_context(path.open("r+b")) for path in paths if path.is_file()]
            free = all(try_exclusive(file) for file in files)
        except OSError:  # no permission to write, or no locks on this disk
            free = False
        yield free


def is_at(file: IO[Any], path: Path) -> bool:
    """True if an open file is still the file at this path, that is, neither removed nor replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
