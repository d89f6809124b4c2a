"""The room that the cache takes: what lies in its folder, what may go, and how much may be there.

Only files that bear the names of this program's own are looked at: a folder that holds other things keeps them.
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
# The last of what a catalogue's folder gets, and what its readers map.
CATALOGUE_TABLE, CATALOGUE_MAPPED, CATALOGUE_LOCK = "catalogue.json", "images.npy", ".lock"
_KEY = r"(?P<key>[0-9a-f]{32,64})"
_WHOLE = {**dict.fromkeys(ARRAYS, WHOLE_SUFFIX), TOKENS: ".npz"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_TEMPORARY_SECONDS = 3600

Form = Literal["whole", "partial", "outdated", "temporary"]


@dataclass(frozen=True)
class Entry:
    """One thing in the cache that comes and goes as a whole.

    Attributes:
        kind: name of the folder that it lies in.
        form: whole; partial: of a build that runs or was killed; outdated: of an earlier version of this program;
            temporary: of a write that runs or was killed.
        paths: its files, or its folder.
        size: bytes; a partial array counts as what it will be.
        used: when it was last used, in seconds since the epoch.
    """

    kind: str
    key: str
    form: Form
    paths: tuple[Path, ...]
    size: int
    used: float

    @property
    def guards(self) -> tuple[Path, ...]:
        """The files that are locked by whoever builds or reads it."""
        if self.kind == CATALOGUES and self.form != "temporary":
            return (self.paths[0] / CATALOGUE_LOCK, self.paths[0] / CATALOGUE_MAPPED)
        return self.paths

    def in_use(self) -> bool:
        """Whether a process builds or reads it now, or it is not this user's to change."""
        if self.form == "temporary" and time.time() - self.used < _TEMPORARY_SECONDS:
            return True  # nobody locks these
        with locks.unused(self.guards) as free:
            return not free

    def remove(self) -> bool:
        """Removes it unless it is in use; says whether it is gone."""
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
    """What lies in the cache folder, least recently used first."""
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
            # The journal goes first: without it the other file is nothing.
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
    """The entry, or nothing if it has gone meanwhile."""
    try:
        files = [file for path in paths for file in ([path, *path.iterdir()] if path.is_dir() else [path])]
        facts = [file.stat() for file in files]
    except OSError:
        return
    size = sum(fact.st_size for file, fact in zip(files, facts, strict=True) if not file.is_dir())
    yield Entry(kind, key, form, tuple(paths), size, max(fact.st_mtime for fact in facts))


def touch(path: Path) -> None:
    """Notes that a file is used now, where this user may."""
    try:
        os.utime(path)
    except OSError:
        return


def cache_limit() -> int | None:
    """Bytes that the cache may take, from the environment; None without a limit.

    Raises:
        UserError: the variable holds no size.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    return parse_size(text, LIMIT_VARIABLE) if text else None


def reserve(root: Path, partial: Path, size: int) -> None:
    """Makes room for a file of ``size`` bytes that is about to be built, and marks the room as taken.

    The file grows to its size at once, without taking the disk's space: others that make room count it in full.

    Raises:
        UserError: what is in use leaves less than that below the limit.
        OSError: the folder cannot be written.
    """
    limit = cache_limit()
    with locks.exclusive(root / ".lock"):
        os.truncate(partial, size)
        if limit is None:
            return
        # What could not help stays: nothing goes for a file that would not fit into an empty cache.
        taken = _shrink(root, limit, partial) if size <= limit else size
    if taken > limit:
        beside = f" beside {readable(taken - size)} in use" if taken > size else ""
        raise UserError(
            f"cache folder {root}: {readable(size)} needed{beside}, more than the limit of {readable(limit)} "
            f"(--cache-limit or {LIMIT_VARIABLE})"
        )


def shrink(root: Path, keep: Path) -> None:
    """Brings the cache below its limit as far as files in use and ``keep`` allow."""
    limit = cache_limit()
    if limit is not None:
        try:
            with locks.exclusive(root / ".lock"):
                _shrink(root, limit, keep)
        except OSError:
            return  # a cache that is not ours to change


def _shrink(root: Path, limit: int, keep: Path) -> int:
    """Removes the least recently used until the limit is kept, if it can be; gives the bytes that are left."""
    there = entries(root)
    taken = sum(entry.size for entry in there)
    for entry in there:
        if taken <= limit:
            break
        if keep not in entry.paths and entry.remove():
            taken -= entry.size
    return taken
