"""Read run folders into immutable, validated values, and merge several runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bench.records import run_folder
from bench.records.columns import model_label
from bench.records.record import Damaged, read_record
from bench.records.tuned import Tuned
from bench.utils.errors import UserError
from reports.load.ranks import Ranks, load_ranks
from reports.load.steps import read_steps
from reports.load.validation import Json, checked_dataset, checked_figures, checked_row, read_json, read_toml

SCHEMA = 1
_NEEDED = ("steps.csv", "ranks.csv")


@dataclass(frozen=True)
class Record:
    """Record of one cell (record.json and the files beside it); a figure that was not measured is None."""

    path: Path
    run: Path
    row: Mapping[str, Any]
    method: Mapping[str, Any]
    budget: Mapping[str, Any]
    training: Mapping[str, Any]
    curve: tuple[Mapping[str, Any], ...]
    steps: Mapping[str, Any]
    memory: Mapping[str, Any]
    """Account of the live tensors at the peak, in bytes; empty if there is none."""
    plan: Mapping[str, Any]
    """Prediction of the plan command, with the keys of `memory` but `peak_memory_bytes` for `peak_bytes`; may be
    empty."""
    compute: Mapping[str, Any]
    """FLOPs of a step of median size and the rates derived from them; empty if they were not counted."""
    compile: Mapping[str, Any]
    """Graphs that torch compiled and the seconds of compiling; empty for a cell with eager steps."""
    cache: Mapping[str, Any]
    """Cost of the hidden-state cache; empty for a cell without a cache."""
    phase_seconds: Mapping[str, Any]
    """Seconds of each phase of the cell, in their order, from assembling to planning; empty if they are unknown."""
    trace: Mapping[str, Any]
    """Number of traced steps and the share of their time in which the GPU was busy; empty without a trace."""
    nvml: Mapping[str, Any]
    """Figures of the NVIDIA driver; empty if there are none."""
    environment: Mapping[str, Any]
    """Machine and software of the cell; empty if the cell died before they were recorded."""
    batch_digest: str
    warnings: tuple[str, ...]
    machine: str
    """Description of the machine that the cell ran on; figures of two machines are never compared."""
    dataset_digest: str
    resumed: Mapping[str, Any]
    """Number of resumptions from a checkpoint and the steps lost by them; empty if the cell was never resumed."""
    attributes: Mapping[str, Any]
    """Accuracy of linear probes on the item vectors by attribute; empty if there are none."""
    ranks: Ranks | None = None
    """Ranks per user; None for a cell that did not end ok or did not keep them."""
    tuned: Tuned | None = None
    """Search that chose the options of the method; None if none is recorded."""

    @property
    def cell_id(self) -> str:
        """Stable name of the cell."""
        return str(self.row["cell_id"])

    @property
    def steps_path(self) -> Path:
        """Path of steps.csv, a row per step; the file need not exist."""
        return self.path.parent / "steps.csv"

    @property
    def ranks_path(self) -> Path:
        """Path of ranks.csv, a row per user; the file need not exist."""
        return self.path.parent / "ranks.csv"

    @property
    def ok(self) -> bool:
        """True if the cell ended ok; figures of other cells are not used."""
        return bool(self.row["status"] == "ok")


@dataclass(frozen=True)
class Run:
    """One run folder; files that are missing from it are empty here and named in `notes`."""

    path: Path
    dataset: Mapping[str, Any]
    environment: Mapping[str, Any]
    matrix: Mapping[str, Any]
    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    """One text per cell that was left out because its files cannot be read, with the reason; then one per file that is
    used although its checksum does not match."""


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Replace each folder of runs, as a run over several datasets writes it, by the run folders in it.

    Run folders in it that have no record yet are left out. Other paths are returned unchanged.
    """
    found: list[Path] = []
    for path in paths:
        held = [] if (path / "matrix.toml").is_file() else [file.parent for file in path.glob("*/matrix.toml")]
        found += sorted(folder for folder in held if any(folder.glob("cells/*/record.json"))) or [path]
    return found


def load_run(path: Path) -> Run:
    """Read a run folder, with its records in the order of the matrix: backbones, modality, method, then seed.

    A cell without a record, a cell with damaged files and a missing dataset.json or environment.json give a note and
    no error, so that a run that was interrupted can still be reported.

    Raises:
        UserError: the folder is not a run folder or holds no readable record, or a file that belongs to all cells is
            malformed; the message names the file.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder")
    if not (path / "matrix.toml").is_file():
        raise UserError(f"{path}: not a run folder: it has no matrix.toml")
    notes: list[str] = []
    matrix = read_toml(path / "matrix.toml")
    dataset = checked_dataset(path / "dataset.json", _optional(path / "dataset.json", notes))
    environment = _optional(path / "environment.json", notes)
    found = []
    damaged: dict[str, UserError] = {}
    for folder in _folders(path / "cells"):
        if (folder / "record.json").is_file():
            try:
                found.append(_record(folder / "record.json", path, dataset, matrix))
            except UserError as error:
                damaged[folder.name] = error
        elif folder.is_dir():
            notes.append(f"cell {folder.name} has no record")
    if not found and damaged:
        raise UserError(f"{path}: no record can be read: {next(iter(damaged.values()))}")
    if not found:
        raise UserError(f"{path}: no cell has a record.json")
    found.sort(key=lambda record: _place(record, matrix))
    whole = _with_tuning(_with_machine(found, environment), path, matrix, notes)
    left_out = [f"cell {name} is left out: {error}" for name, error in damaged.items()]
    odd = [f"{path / name}: the checksum does not match" for name in run_folder.damaged(path) if _counts(name, damaged)]
    return Run(path, dataset, environment, matrix, whole, tuple(notes), (*left_out, *odd))


def _counts(name: str, left_out: Collection[str]) -> bool:
    """True if figures depend on a damaged file, that is, it is neither rendered again nor part of a cell left out."""
    folder, _, rest = name.partition("/")
    return not (run_folder.is_rendered(name) or (folder == "cells" and rest.partition("/")[0] in left_out))


def merge(runs: Sequence[Run]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Merge the records of several runs, each cell once, with a note for each cell that is in more than one run.

    If a cell was measured twice on the same machine and data, the record that ended ok is kept; if both did, the record
    of the run that is given later.
    """
    kept: dict[tuple[str, ...], Record] = {}
    notes = []
    for record in (record for run in runs for record in run.records):
        key = (record.cell_id, record.machine, record.dataset_digest)
        other = kept.get(key)
        if other is None:
            kept[key] = record
            continue
        winner = other if other.row["status"] == "ok" and record.row["status"] != "ok" else record
        kept[key] = winner
        notes.append(
            f"cell {record.cell_id} is in {other.run.name} and in {record.run.name}: the figures are from {winner.run}"
        )
    return tuple(kept.values()), tuple(notes)


def _place(record: Record, matrix: Mapping[str, Any]) -> tuple[int | str, ...]:
    """Sort key of a record: its places in the matrix; entries that the matrix does not name come last."""
    row = record.row
    pairs = [
        row.get("weights") in (None, pair.get("weights", row.get("weights")))
        and all(row.get(f"{m}_model") in (None, _shown(pair, m, row)) for m in ("text", "image"))
        for pair in _list(matrix, "backbones")
        if isinstance(pair, dict)
    ]
    methods = [entry.get("name") == row["method"] for entry in _list(matrix, "methods") if isinstance(entry, dict)]
    modalities = [modality == row.get("modality") for modality in _list(matrix, "modality")]
    places = [found.index(True) if True in found else len(found) for found in (pairs, modalities, methods)]
    return (*places, row["method"], row.get("seed") or 0, record.cell_id)


def _shown(pair: Mapping[str, Any], modality: str, row: Mapping[str, Any]) -> Any:
    """Label of an encoder in the rows; an encoder that the pair leaves out matches any label."""
    name = pair.get(modality)
    if name is None:
        return row.get(f"{modality}_model")
    return model_label(str(name), str(pair.get(f"{modality}_pooling", "auto")), pair.get("quantise"))


def _table(matrix: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of the matrix, for a cell that died before it recorded its own; empty if it is not a table."""
    value = matrix.get(key)
    return value if isinstance(value, dict) else {}


def _list(matrix: Mapping[str, Any], key: str) -> list[Any]:
    value = matrix.get(key)
    return value if isinstance(value, list) else []


def _with_machine(records: Sequence[Record], environment: Mapping[str, Any]) -> tuple[Record, ...]:
    """Fill in missing machines: the machine of the other cells if they share one, else that of the run."""
    known = {record.machine for record in records if record.machine}
    usual = known.pop() if len(known) == 1 else _machine(environment)
    return tuple(record if record.machine else replace(record, machine=usual) for record in records)


def _with_tuning(
    records: Sequence[Record], run: Path, matrix: Mapping[str, Any], notes: list[str]
) -> tuple[Record, ...]:
    """Attach the tuning tables of the matrix to the records whose options are still the ones that tuning chose."""
    try:
        tables = TypeAdapter(tuple[Tuned, ...]).validate_python(matrix.get("tuning") or ())
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(f"{run / 'matrix.toml'}: tuning: {place}: {error.errors()[0]['msg']}") from None
    tuned = {table.name: table for table in tables}
    changed: dict[str, None] = {}
    found = []
    for record in records:
        one = tuned.get(record.row["method"])
        options = record.method.get("options")
        own = options.items() if isinstance(options, dict) else {}.items()
        if one is not None and not one.options.items() <= own:
            changed[one.name] = None
            one = None
        found.append(replace(record, tuned=one))
    notes.extend(
        f"the options of {name} are not the ones that tuning chose: the cost of tuning is left out" for name in changed
    )
    return tuple(found)


def _machine(environment: Mapping[str, Any]) -> str:
    """CPU, GPU and threads of an environment, which timings depend on, as text."""
    gpu = environment.get("gpu")
    name = gpu.get("name") if isinstance(gpu, dict) else gpu
    threads = environment.get("threads")
    parts = [environment.get("cpu"), name, f"{threads} thread{'s' * (threads != 1)}" if threads else None]
    return ", ".join(str(part) for part in parts if part)


def _folders(cells: Path) -> list[Path]:
    try:
        return sorted(cells.iterdir()) if cells.is_dir() else []
    except OSError as error:
        raise UserError(f"{cells}: cannot be read: {error.strerror}") from None


def _optional(path: Path, notes: list[str]) -> Json:
    if not path.is_file():
        notes.append(f"{path.name} is missing")
        return {}
    return read_json(path)


def _record(path: Path, run: Path, dataset: Mapping[str, Any], matrix: Mapping[str, Any]) -> Record:
    value = read_json(path)
    if value.get("schema") != SCHEMA:
        raise UserError(f"{path}: unknown schema {value.get('schema')!r}, expected {SCHEMA}")
    if "digest" in value:  # records of earlier versions have no digest
        try:
            read_record(path.parent, _NEEDED)
        except Damaged as error:
            raise UserError(str(error)) from None
    row = checked_row(path, _part(path, value, "row"))
    if row["status"] == "ok":
        read_steps(path.parent / "steps.csv")  # checks the file, so that later reads need not
    return Record(
        path=path,
        run=run,
        row=row,
        method=_part(path, value, "method"),
        budget=_part(path, value, "budget") or _table(matrix, "budget"),
        training=_part(path, value, "training") or _table(matrix, "training"),
        curve=_curve(path, value.get("curve")),
        steps=checked_figures(path, "steps", _part(path, value, "steps")),
        memory=checked_figures(path, "memory", _part(path, value, "memory")),
        plan=checked_figures(path, "plan", _part(path, value, "plan")),
        compute=checked_figures(path, "compute", _part(path, value, "compute")),
        compile=checked_figures(path, "compile", _part(path, value, "compile")),
        cache=checked_figures(path, "cache", _part(path, value, "cache")),
        phase_seconds=checked_figures(path, "phase_seconds", _part(path, value, "phase_seconds")),
        trace=checked_figures(path, "trace", _part(path, value, "trace")),
        nvml=_part(path, value, "nvml"),
        environment=_part(path, value, "environment"),
        batch_digest=str(value.get("batch_digest") or ""),
        warnings=_warnings(path, value.get("warnings")),
        machine=_machine(_part(path, value, "environment")),
        dataset_digest=str(dataset.get("digest") or ""),
        resumed=_part(path, value, "resumed"),
        attributes=checked_figures(path, "attributes", _part(path, value, "attributes")),
        ranks=load_ranks(path.parent / "ranks.csv") if row["status"] == "ok" else None,
    )


def _part(path: Path, value: Json, key: str) -> Json:
    part = value.get(key)
    if part is None:
        return {}
    if not isinstance(part, dict):
        raise UserError(f"{path}: {key} is not an object")
    return part


def _curve(path: Path, value: object) -> tuple[Json, ...]:
    points = value or []
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise UserError(f"{path}: curve is not a list of objects")
    return tuple(points)


def _warnings(path: Path, value: object) -> tuple[str, ...]:
    entries = value or []
    if not isinstance(entries, list):
        raise UserError(f"{path}: warnings is not a list")
    return tuple(str(entry) for entry in entries)
