"""Run folder: lock, continuation of an earlier run, and checksums over all files."""

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
# Files and folders that a report writes into a run folder; they can be rendered again at any time.
RENDERED = ("results.csv", "summary.csv", "report.md", "report.html", "figures", "tables")
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP)

_log = logging.getLogger(__name__)


def kept(run: Path, cell_id: str, retry_failed: bool = False) -> str | None:
    """Status of a cell with a record from an earlier run, or None if the cell has to run.

    A failure is a result and is kept unless ``retry_failed``. An interrupted cell has no result and runs again.

    Raises:
        Damaged: the checksums of the record do not match.
    """
    try:
        status = str(read_record(cell_folder(run, cell_id))["row"]["status"])
    except FileNotFoundError:
        return None
    runs_again = status == "interrupted" or (retry_failed and status != "ok")
    return None if runs_again else status


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Lock a run folder, made if it does not exist; the system releases the lock even if the process is killed.

    Raises:
        UserError: another process holds the lock, the path is not a run folder, or it cannot be made.
    """
    try:
        if run.exists() and not run.is_dir():
            raise UserError(f"--out {run}: is a file")
        if run.is_dir() and not (run / "matrix.toml").is_file() and any(p.name != LOCK for p in run.iterdir()):
            raise UserError(f"--out {run}: is neither empty nor a run folder; choose another folder")
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
    """Start a run in a locked folder (see :func:`locked`), or continue a run of the same matrix.

    Returns:
        Files of a sealed run that are missing or damaged.

    Raises:
        UserError: the folder holds a run of another matrix (the message names the first difference), its matrix.toml
            is damaged, or ``fresh`` is set and the folder holds any run.
    """
    recipe = run / "matrix.toml"
    if not recipe.is_file():
        write_text(recipe, matrix_toml)
        return []
    if fresh:
        raise UserError(f"--fresh: {run} holds a run; choose an empty folder")
    old, broken = recipe.read_bytes(), damaged(run)
    if recipe.name in broken:
        raise UserError(f"{recipe}: damaged (checksum mismatch); restore it or choose another folder with --out")
    difference = first_difference(old.decode("utf-8", errors="replace"), matrix_toml)
    if difference:
        raise UserError(f"--out {run}: holds a run of another matrix ({difference}); choose another folder")
    return broken


def seal(run: Path) -> None:
    """Write ``SHA256SUMS`` over all files of a run, in the format of ``sha256sum --check``."""
    _write_sums(run, {name: sum_line(run, name) for name in _names(run)})


def reseal(run: Path) -> None:
    """Seal a run folder again after a report, unless a run is in progress, which seals the folder at its end.

    Files that a report does not write keep their old sums, so that damage to them stays visible.
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
    """True if a file, given by its path in the run folder, is written by a report."""
    return name.partition("/")[0] in RENDERED


def _names(run: Path) -> list[str]:
    """Paths in the run folder of the files that ``SHA256SUMS`` covers."""
    relative = (path.relative_to(run) for path in run.rglob("*") if path.is_file())
    visible = (path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts))
    return [name for name in visible if name != SUMS]


def _sums(run: Path) -> dict[str, str]:
    """Lines of ``SHA256SUMS`` by file; empty if there is none."""
    try:
        lines = (run / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {line.partition("  ")[2]: line for line in lines}


def _write_sums(run: Path, lines: Mapping[str, str]) -> None:
    write_text(run / SUMS, "".join(f"{lines[name]}\n" for name in sorted(lines)))


def unseal(run: Path) -> None:
    """Remove ``SHA256SUMS`` before files change."""
    (run / SUMS).unlink(missing_ok=True)


def damaged(run: Path) -> list[str]:
    """Files of a sealed run that are missing or whose checksum does not match; empty without ``SHA256SUMS``."""
    return [name for name, line in _sums(run).items() if not ((run / name).is_file() and sum_line(run, name) == line)]


# Settings that do not change what a cell measures; a run may be continued with other values.
CHANGEABLE = ("profile", "checkpoint_every", "save_adapters")


def first_difference(old: str, new: str) -> str:
    """First key in which two matrix files differ, with both values; "" if they describe the same cells."""
    try:
        before, after = (_flat(tomllib.loads(text)) for text in (old, new))
    except tomllib.TOMLDecodeError as error:
        return f"its matrix.toml cannot be read: {error}"
    for key in [*before, *(key for key in after if key not in before)]:
        if key.split(".")[0] not in CHANGEABLE and before.get(key) != after.get(key):
            return f"{key}: there {_shown(before, key)}, now {_shown(after, key)}"
    return ""


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten nested tables, keys joined by dots; a list of tables becomes its names and a table under each name."""
    if isinstance(value, Mapping):
        return {k: v for key, part in value.items() for k, v in _flat(part, f"{prefix}.{key}".strip(".")).items()}
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        names = [str(part.get("name", index + 1)) for index, part in enumerate(value)]
        parts = {
            k: v for name, part in zip(names, value, strict=True) for k, v in _flat(part, f"{prefix}.{name}").items()
        }
        return {prefix: names, **parts}
    return {prefix: value}


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "not set"
    value = values[key]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
