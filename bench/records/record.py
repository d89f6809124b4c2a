"""Record of a cell: the files in its folder and their checksums. Imports neither torch nor pandas.

    matrix.toml  environment.json  dataset.json  SHA256SUMS
    cells/<cell-id>/{record.json, steps.csv, ranks.csv, stderr.txt, trace.json, checkpoint/, adapter/}

``bench.cell.checkpoint_files`` writes ``checkpoint/`` and ``bench.cell.saved_weights`` writes ``adapter/``; all other
files of a run are written here. ``reports`` renders tables, report and figures from them.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.records.columns import RANKS, RECORD, STEPS
from bench.utils.errors import UserError
from bench.utils.files import atomic_path, file_digest
from bench.utils.text import guarded

SCHEMA = 1
# Files of a cell whose checksums are in its record; stderr.txt is not, because it can grow after the record.
CHECKED = ("steps.csv", "ranks.csv", "trace.json")


class RecordedCell(Protocol):
    """Interface of a cell that a record needs."""

    @property
    def columns(self) -> dict[str, Any]:
        """Values of the columns of results.csv that the configuration of the cell determines."""

    @property
    def description(self) -> dict[str, Any]:
        """Name, kind and options of the method, as in ``record.json``."""


def empty_row(cell: RecordedCell) -> dict[str, Any]:
    """Row with all columns: the values of the cell's configuration, and None for everything measured."""
    return dict.fromkeys(RECORD) | cell.columns


def failure(cell: RecordedCell, status: str, error: str, traceback: str = "") -> dict[str, Any]:
    """Record of a cell that did not end ok."""
    return {
        "schema": SCHEMA,
        "row": empty_row(cell) | {"status": status, "error": one_line(error)},
        "method": cell.description,
        "curve": [],
        "warnings": [],
        "traceback": traceback,
    }


def one_line(text: str) -> str:
    """First line of a text that is not blank, cut to 300 characters."""
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``record.json`` into a cell's folder, atomically, after all other files of the cell.

    ``files`` of the record has the SHA-256 of each of them, and ``digest`` that of the record's other entries.
    """
    files = {path.name: file_digest(path) for name in CHECKED if (path := folder / name).is_file()}
    content = _finite({**record, "files": files})
    content.pop("digest", None)
    write_json(folder / "record.json", {**content, "digest": _content_digest(content)})


def amend(folder: Path, **changes: Any) -> None:
    """Change entries of a cell's record; ``warnings`` are appended to its warnings, in the row as well."""
    record = read_record(folder)
    more = changes.pop("warnings", [])
    record |= changes
    if more:
        record["warnings"] = [*record["warnings"], *more]
        record["row"]["warnings"] = "; ".join(record["warnings"])
    write_record(folder, record)


def _content_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def receive(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a cell that ran on another machine; the record is written last and then checked.

    Raises:
        UserError: a file cannot be written; the message names it.
        Damaged: the checksums do not match.
    """
    for name in sorted(files, key=lambda name: name == "record.json"):
        _write(folder / Path(name).name, files[name])
    read_record(folder)


class Damaged(Exception):
    """Checksum mismatch in a record or in a file that it covers."""


def read_record(folder: Path, needed: Collection[str] = CHECKED) -> dict[str, Any]:
    """Read the record of a cell, and check its checksum and those of the needed files.

    Raises:
        FileNotFoundError: the cell has no record.
        Damaged: a checksum does not match or a file is missing; the message names the file.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_bytes())
        content = {key: value for key, value in record.items() if key != "digest"}
        if record["digest"] != _content_digest(content):
            raise Damaged(f"{path}: damaged (checksum mismatch)")
        files = dict(record["files"])
        status = record["row"]["status"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: damaged ({type(error).__name__})") from error
    if not isinstance(status, str):
        raise Damaged(f"{path}: damaged (checksum mismatch)")
    for name, digest in files.items():
        if name not in needed:
            continue
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name}: is missing")
        if file_digest(folder / name) != digest:
            raise Damaged(f"{folder / name}: damaged (checksum mismatch)")
    return dict(record)


def write_steps(folder: Path, rows: Iterable[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """Write ``steps.csv``: seconds per step, exclusive by phase, and the loss; unmeasured values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, STEPS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, loss in zip(rows, losses, strict=True):
        full = {**row, "loss": loss}
        writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in full.items()})
    write_text(folder / "steps.csv", text.getvalue())


def write_ranks(folder: Path, users: Iterable[str], valid: Iterable[int | None], test: Iterable[int | None]) -> None:
    """Write ``ranks.csv``: ranks of both targets of every user (1 is best) under the model of the chosen epoch.

    A rank is None, and its field empty, if the user has no such target.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RANKS)
    writer.writerows(zip(map(_cell, users), valid, test, strict=True))
    write_text(folder / "ranks.csv", text.getvalue())


def _cell(user: str) -> str:
    """User id, escaped against formula injection in spreadsheets; different ids stay different."""
    return f"'{user}" if user.startswith("'") else guarded(user)


def write_trace(folder: Path, export: Callable[[str], object]) -> Path:
    """Write ``trace.json``; return its path.

    Args:
        folder: folder of the cell.
        export: a profiler's export function, which writes to the path that it is given.

    Raises:
        UserError: the file cannot be written; the message names it.
    """
    path = folder / "trace.json"
    try:
        with atomic_path(path) as partial:
            export(str(partial))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    return path


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; infinities and NaN become null, because JSON has no such numbers."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        UserError: the file cannot be written; the message names it.
    """
    # Lone surrogates stand for bytes of a path that is not UTF-8; they are escaped, and JSON restores them.
    _write(path, text.encode("utf-8", "backslashreplace"))


def _write(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():  # a run folder that was deleted during the run is not made again
        raise UserError(f"{path.parent}: no longer exists")
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def cell_folder(run: Path, cell_id: str) -> Path:
    """Folder of a cell's files."""
    return run / "cells" / cell_id
