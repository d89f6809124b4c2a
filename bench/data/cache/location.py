"""Location of all caches on disk."""

from __future__ import annotations

import os
from pathlib import Path

from bench.utils.errors import UserError

FOLDER_VARIABLE = "IISAN_BENCH_CACHE"


def cache_dir() -> Path:
    """Folder of all caches: $IISAN_BENCH_CACHE, else $XDG_CACHE_HOME/iisan-bench, else ~/.cache/iisan-bench.

    The folder is not made here.

    Raises:
        UserError: the user has no home folder.
    """
    if own := os.environ.get(FOLDER_VARIABLE):
        return Path(own).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # the XDG specification: relative paths are to be ignored
        return base / "iisan-bench"
    try:
        return Path.home() / ".cache" / "iisan-bench"
    except RuntimeError as error:
        raise UserError(
            f"no home folder for the cache: choose a folder with --cache-dir or {FOLDER_VARIABLE}"
        ) from error
