"""Atomic writing of files, and SHA-256 digests of values and files."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Union

Part = Union[str, bytes, int, float, None, Sequence["Part"]]  # noqa: UP007 (a forward reference cannot stand in `|`)
SUMS = "SHA256SUMS"
"""Name of a file of checksums in the format of ``sha256sum``."""
CHUNK_BYTES = 1 << 22


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, which replaces `path` if the block does not raise.

    The content is flushed to the disk before the file is renamed, and the folder afterwards: a power cut leaves either
    the old file or the new file. If the block raises, the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield temporary
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    finally:
        with suppress(OSError):  # the folder is gone: the first error is the one to report
            temporary.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(handle)


def digest_of(*parts: Part) -> str:
    """SHA-256 over plain values and nested sequences; types and boundaries count ("ab", "c" differs from "a", "bc")."""
    hasher = hashlib.sha256()
    _feed(hasher, parts)
    return hasher.hexdigest()


def _feed(hasher: hashlib._Hash, part: Part) -> None:
    match part:
        case None | bool() | int():
            kind, payload = type(part).__name__, repr(part).encode()
        case float():
            kind, payload = "float", part.hex().encode()
        case str():
            kind, payload = "str", part.encode("utf-8", "surrogatepass")
        case bytes():
            kind, payload = "bytes", part
        case list() | tuple():
            hasher.update(f"sequence:{len(part)}:".encode())
            for inner in part:
                _feed(hasher, inner)
            return
        case _:
            raise TypeError(f"no digest of a {type(part).__name__}")
    hasher.update(f"{kind}:{len(payload)}:".encode())
    hasher.update(payload)


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sum_line(folder: Path, name: str) -> str:
    """Line of ``sha256sum`` for the file ``name`` below a folder, without the line end."""
    return f"{file_digest(folder / name)}  {name}"
