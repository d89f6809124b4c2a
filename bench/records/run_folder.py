"""A run folder: who holds it, whether a run may go on in it, and the checksums over all of its files."""

from __future__ import annotations

import errno
import logging
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.records.record import cell_folder, read_record, write_text
from bench.utils import locks
from bench.utils.errors import UserError
from bench.utils.files import SUMS, sum_line

LOCK = ".lock"
# What a report writes into a run folder, files and folders: made again from the rest at any time.
RENDERED = ("results.csv", "summary.csv", "report.md", "report.html", "figures", "tables")
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP)

_log = logging.getLogger(__name__)


def kept(run: Path, cell_id: str, retry_failed: bool = False) -> str | None:
    """The status of a cell that an earlier run has dealt with; None where it has to run.

    A failure is a result like any other and kept unless it is to be tried again. A cell that was interrupted has none.

    Raises:
        Damaged: there is a record, but not what was written.
    """
    try:
        status = str(read_record(cell_folder(run, cell_id))["row"]["status"])
    except FileNotFoundError:
        return None
    again = status == "interrupted" or (retry_failed and status != "ok")
    return None if again else status


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds a run folder, making it if need be; the system lets go of it even when the process is killed.

    Raises:
        UserError: another process holds it, or it cannot be made.
    """
    try:
        if run.exists() and not run.is_dir():
            raise UserError(f"--out {run}: is a file")
        if run.is_dir() and not (run / "matrix.toml").is_file() and any(p.name != LOCK for p in run.iterdir()):
            raise UserError(f"--out {run}: is not empty and no run folder; choose another folder")
    except OSError as error:
        raise UserError(f"--out {run}: {error.strerror or error}") from error
    with ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locks.exclusive(run / LOCK, wait=False))
        except BlockingIOError as error:
            raise UserError(f"--out {run}: another process is running in this folder") from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise UserError(f"--out {run}: {error.strerror or error}") from error
            _log.warning("--out %s: no locks on this disk; let no other process run in this folder", run)
        yield


def open_run(run: Path, matrix_toml: str, fresh: bool = False) -> list[str]:
    """Starts in a folder that is held (see :func:`locked`), or goes on with a run of the same matrix.

    Returns:
        the files of a sealed run that are gone or not what was written.

    Raises:
        UserError: the folder holds another matrix (names the first difference), or any run where a fresh one is wanted.
    """
    recipe = run / "matrix.toml"
    if not recipe.is_file():
        write_text(recipe, matrix_toml)
        return []
    if fresh:
        raise UserError(f"--fresh: {run} holds a run; choose an empty folder")
    old, broken = recipe.read_bytes(), damaged(run)
    if recipe.name in broken:
        raise UserError(f"{recipe}: is not what was written; restore it or choose another folder with --out")
    difference = first_difference(old.decode("utf-8", errors="replace"), matrix_toml)
    if difference:
        raise UserError(f"--out {run}: holds a run of another matrix ({difference}); choose another folder")
    return broken


def seal(run: Path) -> None:
    """Writes ``SHA256SUMS`` over all files of a run, as ``sha256sum --check`` reads it."""
    _write_sums(run, {name: sum_line(run, name) for name in _names(run)})


def reseal(run: Path) -> None:
    """Seals a run folder again after a report, unless a run is going on in it, which will.

    Of what a report does not write the old sums stay, so that what is damaged is still known to be.
    """
    if not (run / "matrix.toml").is_file():
        return
    try:
        with locked(run):
            old = {name: line for name, line in _sums(run).items() if not is_rendered(name)}
            new = {name: sum_line(run, name) for name in _names(run) if name not in old}
            _write_sums(run, old | new)
    except UserError:
        return


def is_rendered(name: str) -> bool:
    """Whether a file of a run, by its path below it, is a report's."""
    return name.partition("/")[0] in RENDERED


def _names(run: Path) -> list[str]:
    """The files of a run below it that are summed."""
    below = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    visible = (path.as_posix() for path in below if not any(part.startswith(".") for part in path.parts))
    return [name for name in visible if name != SUMS]


def _sums(run: Path) -> dict[str, str]:
    """File -> its line; nothing where there are no sums."""
    try:
        lines = (run / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {line.partition("  ")[2]: line for line in lines}


def _write_sums(run: Path, lines: Mapping[str, str]) -> None:
    write_text(run / SUMS, "".join(f"{lines[name]}\n" for name in sorted(lines)))


def unseal(run: Path) -> None:
    """Takes the sums away while files change."""
    (run / SUMS).unlink(missing_ok=True)


def damaged(run: Path) -> list[str]:
    """The files of a sealed run that are gone or not what was written; none where there are no sums."""
    return [name for name, line in _sums(run).items() if not ((run / name).is_file() and sum_line(run, name) == line)]


# Settings that change nothing of what a cell measures: a run may go on with others.
PASSING = ("profile", "checkpoint_every", "save_adapters")


def first_difference(old: str, new: str) -> str:
    """What sets two matrix files apart, by key; empty if they ask for the same cells."""
    try:
        before, after = (_flat(tomllib.loads(text)) for text in (old, new))
    except tomllib.TOMLDecodeError as error:
        return f"its matrix.toml cannot be read: {error}"
    for key in [*before, *(key for key in after if key not in before)]:
        if key.split(".")[0] not in PASSING and before.get(key) != after.get(key):
            return f"{key}: there {_said(before, key)}, now {_said(after, key)}"
    return ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots; of lists of tables the names, then each table by its name."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".strip(".")).items()}
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        names = [str(part.get("name", index + 1)) for index, part in enumerate(value)]
        parts = {
            k: v for name, part in zip(names, value, strict=True) for k, v in _flat(part, f"{prefix}.{name}").items()
        }
        return {prefix: names, **parts}
    return {prefix: value}


def _said(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not set"
    value = values[key]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
