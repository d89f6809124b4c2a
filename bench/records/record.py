"""What a cell leaves behind. This is the only writer of run folders; it imports nothing heavy.

    matrix.toml  environment.json  dataset.json  SHA256SUMS
    cells/<cell-id>/{record.json, steps.csv, ranks.csv, stderr.txt, trace.json, checkpoint/, adapter/}

``checkpoint/`` is ``bench.cell.checkpoint_files``'s, ``adapter/`` that of ``bench.cell.saved_weights``. Tables,
report and figures are rendered from the rest by ``reports``.
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
# Files of a cell that its record vouches for; what a process says on its way out comes after the record.
CHECKED = ("steps.csv", "ranks.csv", "trace.json")


class RecordedCell(Protocol):
    """A cell as far as its record needs it."""

    @property
    def columns(self) -> dict[str, Any]:
        """Column of results.csv -> value, for the columns that the cell's configuration decides."""

    @property
    def description(self) -> dict[str, Any]:
        """Name, kind and options of the method, as they stand in ``record.json``."""


def empty_row(cell: RecordedCell) -> dict[str, Any]:
    """All columns, filled as far as the cell's configuration tells; unmeasured is None."""
    return dict.fromkeys(RECORD) | cell.columns


def failure(cell: RecordedCell, status: str, error: str, traceback: str = "") -> dict[str, Any]:
    """The record of a cell that did not end ok."""
    return {
        "schema": SCHEMA,
        "row": empty_row(cell) | {"status": status, "error": one_line(error)},
        "method": cell.description,
        "curve": [],
        "warnings": [],
        "traceback": traceback,
    }


def one_line(text: str) -> str:
    """The first line that says something, cut to a bearable length."""
    line = next((part.strip() for part in text.splitlines() if part.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Writes ``record.json`` into a cell's folder, whole or not at all, after all other files of the cell.

    It holds the SHA-256 of each of them, and in ``digest`` its own: that of its other entries.
    """
    files = {path.name: file_digest(path) for name in CHECKED if (path := folder / name).is_file()}
    content = _finite({**record, "files": files})
    content.pop("digest", None)
    write_json(folder / "record.json", {**content, "digest": _content_digest(content)})


def amend(folder: Path, **changes: Any) -> None:
    """Adds to the record that a cell has left; ``warnings`` are appended to its own, in its row too."""
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
    """Writes what a cell left on another machine; the record comes last and is checked.

    Raises:
        UserError: a file cannot be written, naming it.
        Damaged: what came is not what was sent.
    """
    for name in sorted(files, key=lambda name: name == "record.json"):
        _write(folder / Path(name).name, files[name])
    read_record(folder)


class Damaged(Exception):
    """A record is not what was written, or a file that it vouches for is not."""


def read_record(folder: Path, needed: Collection[str] = CHECKED) -> dict[str, Any]:
    """The record of a cell, checked with those files beside it that are needed.

    Raises:
        FileNotFoundError: there is none.
        Damaged: names the file.
    """
    path = folder / "record.json"
    try:
        record = json.loads(path.read_bytes())
        content = {key: value for key, value in record.items() if key != "digest"}
        if record["digest"] != _content_digest(content):
            raise Damaged(f"{path}: is not what was written")
        files = dict(record["files"])
        status = record["row"]["status"]
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: is not what was written ({type(error).__name__})") from error
    if not isinstance(status, str):
        raise Damaged(f"{path}: is not what was written")
    for name, digest in files.items():
        if name not in needed:
            continue
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name}: is gone")
        if file_digest(folder / name) != digest:
            raise Damaged(f"{folder / name}: is not what was written")
    return dict(record)


def write_steps(folder: Path, rows: Iterable[Mapping[str, Any]], losses: Sequence[float]) -> None:
    """Writes ``steps.csv``: seconds, exclusive by phase; what was not measured is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, STEPS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row, loss in zip(rows, losses, strict=True):
        full = {**row, "loss": loss}
        writer.writerow({k: f"{v:.9g}" if isinstance(v, float) else v for k, v in full.items()})
    write_text(folder / "steps.csv", text.getvalue())


def write_ranks(folder: Path, users: Iterable[str], valid: Iterable[int | None], test: Iterable[int | None]) -> None:
    """Writes ``ranks.csv``: for every user the ranks of both targets, best 1, under the model of the chosen epoch.

    The rank of a target that a user does not have is None, and its cell empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RANKS)
    writer.writerows(zip(map(_cell, users), valid, test, strict=True))
    write_text(folder / "ranks.csv", text.getvalue())


def _cell(user: str) -> str:
    """A user id as a spreadsheet does not run it; different ids stay different."""
    return f"'{user}" if user.startswith("'") else guarded(user)


def write_trace(folder: Path, export: Callable[[str], object]) -> None:
    """Writes ``trace.json``: what a profiler exports to the path it is given.

    Raises:
        UserError: when the file cannot be written, naming it.
    """
    path = folder / "trace.json"
    try:
        with atomic_path(path) as partial:
            export(str(partial))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Atomic; numbers that are not finite become null, for JSON has none and a figure that is none is unknown."""
    write_text(path, json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Atomic, in UTF-8.

    Raises:
        UserError: when the file cannot be written, naming it.
    """
    # Half a surrogate pair stands for a byte of a path that is not UTF-8; JSON reads the escape as it was.
    _write(path, text.encode("utf-8", "backslashreplace"))


def _write(path: Path, content: bytes) -> None:
    if not path.parent.is_dir():  # a run folder that vanished is not made again
        raise UserError(f"{path.parent}: is gone")
    try:
        with atomic_path(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def cell_folder(run: Path, cell_id: str) -> Path:
    """Where a cell leaves its files."""
    return run / "cells" / cell_id
