"""Load method files: a Python file is run, and the methods that it registers can be used like built-in ones.

A method file is code and runs with the rights of the user.
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
    """A loaded method file.

    Attributes:
        path: absolute path.
        sha256: SHA-256 of the content that was run, in hexadecimal.
        names: names of the registered methods.
    """

    path: Path
    sha256: str
    names: tuple[str, ...]


def load_file(path: Path, sha256: str | None = None) -> Loaded:
    """Run a method file; loading it again in the same process replaces the methods that it registered.

    Args:
        path: the file.
        sha256: required SHA-256 of the content; None to accept any.

    Raises:
        UserError: the file cannot be read, fails or registers no valid method, or its content has changed; the message
            names the file and, if there is one, the line.
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
    _unregister(path)
    before = set(FROM_FILES)
    try:
        _run(path, content, module)
        names = tuple(name for name in FROM_FILES if name not in before)
        _check_registered(path, names)
    except BaseException:
        _unregister(path)
        raise
    return Loaded(path, digest, names)


def _unregister(path: Path) -> None:
    for name in [name for name, entry in FROM_FILES.items() if entry.origin == str(path)]:
        del FROM_FILES[name]


def _run(path: Path, content: bytes, name: str) -> None:
    module = ModuleType(name)
    module.__file__ = str(path)
    # Dataclasses and type hints look up their module by name.
    sys.modules[name] = module
    try:
        # Output of the file must not mix with the standard output of a command that prints JSON.
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(content, str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise UserError(f"method file {_at(path, error)}: {error.msg}") from error
    except UserError as error:
        raise UserError(f"method file {_at(path, error)}: {error}") from error
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"method file {_at(path, error)}: {type(error).__name__}{': ' if text else ''}{text}"
        ) from error


def _at(path: Path, error: BaseException) -> str:
    """Path of the file and the line of the error, for messages."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}"
    line = line_of(path, error)
    return str(path) if line is None else f"{path}, line {line}"


def line_of(path: Path, error: BaseException) -> int | None:
    """Innermost line of the file in an error's traceback; None if the file is not in it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] if lines else None


def _check_registered(path: Path, names: tuple[str, ...]) -> None:
    from methods.base import checked_class

    if not names:
        raise UserError(
            f'method file {path}: registers no method; put @register("a-name") of methods.base above a class derived '
            "from EncoderMethod or HiddenMethod"
        )
    for name in names:
        if not NAME.fullmatch(name):
            raise UserError(f"method file {path}: method name {name!r} must be up to 64 letters, digits and . _ + -")
        checked_class(f"method file {path}", FROM_FILES[name].target)
