"""Folder and size limit of the cache: options of the command line take precedence over environment variables."""

from __future__ import annotations

import argparse
import os
import tempfile

from bench.data.cache.eviction import LIMIT_VARIABLE, cache_limit
from bench.data.cache.location import FOLDER_VARIABLE, cache_dir
from bench.utils.errors import UserError
from bench.utils.sizes import parse_size


def apply(args: argparse.Namespace) -> dict[str, str]:
    """Applies the options ``cache_dir`` and ``cache_limit`` by setting environment variables, which children inherit.

    Returns:
        the variables that were set, for processes that do not inherit the environment.

    Raises:
        UserError: the limit is not a size.
    """
    given = {}
    if args.cache_dir is not None:
        given[FOLDER_VARIABLE] = str(args.cache_dir.absolute())
    if args.cache_limit is not None:
        parse_size(args.cache_limit, "--cache-limit")
        given[LIMIT_VARIABLE] = args.cache_limit
    os.environ.update(given)
    cache_limit()
    return given


def check_writable() -> None:
    """Makes the cache folder and writes a file to it, so that a cache that cannot be used is an error before a run.

    Raises:
        UserError: the folder cannot be written; the message names it and the option for another.
    """
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise UserError(
            f"cache folder {folder}: cannot be made or written ({error.strerror or error}); "
            f"choose another with --cache-dir or {FOLDER_VARIABLE}"
        ) from error
