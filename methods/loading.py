"""Methods of one's own: a Python file is run, and what it registers can be named like any other method.

A method file is code and runs with the rights of whoever names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bench.utils.errors import UserError
from methods.registry import FROM_FILES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True)
class Loaded:
    """A method file that was run.

    Attributes:
        path: absolute.
        sha256: of the content that was run.
        names: the methods it registered.
    """

    path: Path
    sha256: str
    names: tuple[str, ...]


def load_file(path: Path, sha256: str | None = None) -> Loaded:
    """Runs a method file; a file that was run before in this process is run again and replaces what it registered.

    Args:
        sha256: what its content must be, if it must be something.

    Raises:
        UserError: anything wrong with the file, in one line that names it and, where there is one, the line.
    """
    path = path.absolute()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"method file {path}: {error.strerror}") from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, digest):
        raise UserError(f"method file {path}: has changed since the matrix was resolved; start a new run folder")
    module = "iisan_bench_method_" + hashlib.sha256(f"{path} {digest}".encode()).hexdigest()[:16]
    _forget(path)
    before = set(FROM_FILES)
    try:
        _run(path, content, module)
        names = tuple(name for name in FROM_FILES if name not in before)
        _look_at(path, names)
    except BaseException:
        _forget(path)
        raise
    return Loaded(path, digest, names)


def _forget(path: Path) -> None:
    for name in [name for name, entry in FROM_FILES.items() if entry.origin == str(path)]:
        del FROM_FILES[name]


def _run(path: Path, content: bytes, name: str) -> None:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and type hints look their module up by name.
    sys.modules[name] = module
    try:
        # What a file prints must not get between the lines of a command that prints JSON.
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise UserError(f"method file {_at(path, error)}: {error.msg}") from error
    except UserError as error:
        raise UserError(f"method file {_at(path, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"method file {_at(path, error)}: {type(error).__name__}{': ' if said else ''}{said}"
        ) from error


def _at(path: Path, error: BaseException) -> str:
    """The file, and the line of it where the error arose."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    line = line_of(path, error)
    return str(path) if line is None else f"{path}, line {line}"


def line_of(path: Path, error: BaseException) -> int | None:
    """The innermost line of the file that the error passed through; None if it did not."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _look_at(path: Path, names: tuple[str, ...]) -> None:
    from methods.base import checked_class

    if not names:
        raise UserError(
            f'method file {path}: no method in it; put @register("a-name") of methods.base above a class derived from '
            "EncoderMethod or HiddenMethod"
        )
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"method file {path}: method name {name!r}: letters, digits and . _ + - up to 64, please")
        checked_class(f"method file {path}", FROM_FILES[name].target)
