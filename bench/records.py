"""What a cell leaves behind. This is the only writer of run folders; it imports nothing heavy.

    matrix.toml  environment.json  dataset.json  SHA256SUMS
    cells/<cell-id>/{record.json, steps.csv, ranks.csv, stderr.txt, trace.json, checkpoint/, adapter/}

``checkpoint/`` is ``bench.checkpoint``'s, ``adapter/`` that of ``bench.adapters``. Tables, report and figures are
rendered from the rest by ``reports``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.difference import first_difference
from bench.matrix import Cell
from bench.utils.errors import UserError
from bench.utils.files import SUMS, atomic_path, file_digest, sum_line
from bench.utils.text import guarded

SCHEMA = 1
# The contract's columns, in its order; reports adds tpme over the whole table.
COLUMNS = (
    "cell_id", "method", "dataset", "modality", "text_model", "image_model", "seed", "status", "error", "device",
    "precision", "batch_size", "epochs", "steps", "hr@10", "ndcg@10", "valid_hr@10", "best_epoch",
    "step_seconds_median", "epoch_seconds", "train_seconds", "setup_seconds", "trainable_params", "total_params",
    "peak_memory_bytes", "memory_source", "peak_allocated_bytes", "peak_reserved_bytes", "nvml_process_bytes",
    "nvml_device_bytes", "peak_rss_bytes", "energy_joules", "flops_forward", "flops_backward", "tpme",
    "valid_ndcg@10", "weights", "dataset_seed", "cache_seconds", "cache_bytes", "unique_items_per_step", "warnings",
)  # fmt: skip
STEP_COLUMNS = (
    "epoch", "step", "seconds", "data", "transfer", "backbone", "forward", "backward", "optimizer", "loss",
)  # fmt: skip
RANK_COLUMNS = ("user", "valid_rank", "test_rank")
# Files of a cell that its record vouches for; what a process says on its way out comes after the record.
CHECKED = ("steps.csv", "ranks.csv", "trace.json")
LOCK = ".lock"
# What a report writes into a run folder, files and folders: made again from the rest at any time.
RENDERED = ("results.csv", "summary.csv", "report.md", "report.html", "figures", "tables")


def empty_row(cell: Cell) -> dict[str, Any]:
    """All columns, filled as far as the cell's configuration tells; unmeasured is None."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    return row | {
        "cell_id": cell.cell_id,
        "method": cell.method.name,
        "dataset": cell.dataset.name,
        "modality": cell.modality,
        "text_model": cell.shown_model("text"),
        "image_model": cell.shown_model("image"),
        "seed": cell.seed,
        "device": cell.device,
        "precision": cell.precision,
        "batch_size": cell.budget.batch_size,
        "epochs": cell.budget.epochs,
        "steps": cell.budget.steps,
        "weights": cell.backbones.weights,
        "dataset_seed": cell.dataset.seed if cell.dataset.name == "shop" else None,
    }


def failure(cell: Cell, status: str, error: str, traceback: str = "") -> dict[str, Any]:
    """The record of a cell that did not end ok."""
    row = empty_row(cell) | {"status": status, "error": one_line(error)}
    return {
        "schema": SCHEMA,
        "row": row,
        "method": {"name": cell.method.name, "type": cell.method.kind, "options": cell.method.options},
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
    writer = csv.DictWriter(text, STEP_COLUMNS, extrasaction="ignore", lineterminator="\n")
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
    writer.writerow(RANK_COLUMNS)
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
    lock = FileLock(run / LOCK)
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"--out {run}: another process is running in this folder") from error
    except OSError as error:
        raise UserError(f"--out {run}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


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
