"""Size limit of the cache: entries, their removal in the order of last use, and space for new files.

Only files with names that this program gives are considered; anything else in the folder is left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.utils import locks
from bench.utils.errors import UserError
from bench.utils.sizes import parse_size, readable

LIMIT_VARIABLE = "IISAN_BENCH_CACHE_LIMIT"
ARRAYS, TOKENS, CATALOGUES = ("hidden", "pixels"), "tokens", "catalogues"
WHOLE_SUFFIX, PARTIAL_SUFFIX, JOURNAL_SUFFIX = ".safetensors", ".partial", ".journal"
# In a catalogue's folder: the file that is written last, the file that readers map, and the lock file of the builder.
CATALOGUE_TABLE, CATALOGUE_MAPPED, CATALOGUE_LOCK = "catalogue.json", "images.npy", ".lock"
_KEY = r"(?P<key>[0-9a-f]{32,64})"
_WHOLE = {**dict.fromkeys(ARRAYS, WHOLE_SUFFIX), TOKENS: ".npz"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_TEMPORARY_SECONDS = 3600

Form = Literal["whole", "partial", "outdated", "temporary"]


@dataclass(frozen=True)
class Entry:
    """Entry of the cache: the files that are built and removed together.

    Attributes:
        kind: name of its folder in the cache.
        key: digest that names it.
        form: "whole"; "partial": of a build that is running or was killed; "outdated": of an earlier version of this
            program; "temporary": of a write that is running or was killed.
        paths: its files, or its folder.
        size: bytes; a partial array counts with its final size.
        used: time of last use, in seconds since the epoch.
    """

    kind: str
    key: str
    form: Form
    paths: tuple[Path, ...]
    size: int
    used: float

    @property
    def guards(self) -> tuple[Path, ...]:
        """Files that a process locks while it builds or reads the entry."""
        if self.kind == CATALOGUES and self.form != "temporary":
            return (self.paths[0] / CATALOGUE_LOCK, self.paths[0] / CATALOGUE_MAPPED)
        return self.paths

    def in_use(self) -> bool:
        """True if a process builds or reads the entry now, or this user may not change it."""
        if self.form == "temporary" and time.time() - self.used < _TEMPORARY_SECONDS:
            return True  # temporary files are not locked
        with locks.unused(self.guards) as free:
            return not free

    def remove(self) -> bool:
        """Removes the entry unless it is in use; returns whether it was removed."""
        if self.form == "temporary" and self.in_use():
            return False
        with locks.unused(self.guards) as free:
            if not free:
                return False
            try:
                for path in self.paths:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                return False
        return True


def entries(root: Path) -> list[Entry]:
    """Entries of the cache folder, least recently used first."""
    found = [entry for kind in (*ARRAYS, TOKENS) for entry in _files(root / kind, kind)]
    return sorted([*found, *_catalogues(root / CATALOGUES)], key=lambda entry: entry.used)


def _files(folder: Path, kind: str) -> Iterator[Entry]:
    partial: dict[str, list[Path]] = {}
    for path in _listed(folder):
        if _TEMPORARY.fullmatch(path.name):
            yield from _entry(kind, path.name, "temporary", [path])
        elif found := re.fullmatch(_KEY + re.escape(_WHOLE[kind]), path.name):
            yield from _entry(kind, found["key"], "whole", [path])
        elif found := re.fullmatch(rf"\.{_KEY}({PARTIAL_SUFFIX}|{JOURNAL_SUFFIX})", path.name):
            # The journal is removed first: without it the partial file is of no use.
            partial.setdefault(found["key"], []).insert(0 if path.suffix == JOURNAL_SUFFIX else 1, path)
        elif kind in ARRAYS and (found := re.fullmatch(_KEY + r"\.(npy|json)", path.name)):
            yield from _entry(kind, found["key"], "outdated", [path])
    for key, paths in partial.items():
        yield from _entry(kind, key, "partial", paths)


def _catalogues(folder: Path) -> Iterator[Entry]:
    for path in _listed(folder):
        if path.is_dir() and re.fullmatch(_KEY, path.name):
            whole = (path / CATALOGUE_TABLE).is_file()
            yield from _entry(CATALOGUES, path.name, "whole" if whole else "partial", [path])


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"cache folder {folder}: {error.strerror or error}") from error


def _entry(kind: str, key: str, form: Form, paths: list[Path]) -> Iterator[Entry]:
    """Yields the entry, unless it was removed meanwhile."""
    try:
        files = [file for path in paths for file in ([path, *path.iterdir()] if path.is_dir() else [path])]
        facts = [file.stat() for file in files]
    except OSError:
        return
    size = sum(fact.st_size for file, fact in zip(files, facts, strict=True) if not file.is_dir())
    yield Entry(kind, key, form, tuple(paths), size, max(fact.st_mtime for fact in facts))


def touch(path: Path) -> None:
    """Sets the time of last use of a file to now, if this user may."""
    try:
        os.utime(path)
    except OSError:
        return


def cache_limit() -> int | None:
    """Limit of the cache in bytes, from the environment; None without a limit.

    Raises:
        UserError: the value of the variable is not a size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    return parse_size(text, LIMIT_VARIABLE) if text else None


def reserve(root: Path, partial: Path, size: int) -> None:
    """Removes old entries to make space for a file of ``size`` bytes that is about to be built, and reserves the space.

    The file is extended to its final size as a sparse file, so that other processes count it in full.

    Args:
        root: the cache folder.
        partial: the file that is about to be built.
        size: its final size in bytes.

    Raises:
        UserError: the entries in use leave less than ``size`` bytes below the limit.
        OSError: the folder cannot be written.
    """
    limit = cache_limit()
    with locks.exclusive(root / ".lock"):
        os.truncate(partial, size)
        if limit is None:
            return
        # Nothing is removed for a file that would not fit into an empty cache.
        taken = _shrink(root, limit, partial) if size <= limit else size
    if taken > limit:
        beside = f" beside {readable(taken - size)} in use" if taken > size else ""
        raise UserError(
            f"cache folder {root}: {readable(size)} needed{beside}, more than the limit of {readable(limit)} "
            f"(--cache-limit or {LIMIT_VARIABLE})"
        )


def shrink(root: Path, keep: Path) -> None:
    """Removes least recently used entries until the limit is met, except entries in use and ``keep``."""
    limit = cache_limit()
    if limit is not None:
        try:
            with locks.exclusive(root / ".lock"):
                _shrink(root, limit, keep)
        except OSError:
            return  # this user may not change the cache


def _shrink(root: Path, limit: int, keep: Path) -> int:
    """Removes least recently used entries until the limit is met or none can be removed; returns the bytes left."""
    there = entries(root)
    taken = sum(entry.size for entry in there)
    for entry in there:
        if taken <= limit:
            break
        if keep not in entry.paths and entry.remove():
            taken -= entry.size
    return taken
