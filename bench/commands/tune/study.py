"""The search itself: Optuna says what to try, each trial is a cell of its own, and its record is what counts.

The first trial of every method is what the recipe says, so that no search ends with less than it began with. The others
are drawn from a sampler that is seeded anew for each by its number, so that a search that was broken off and goes on
tries what it would have tried. A trial that was broken off itself is no result: it stays open, and is run again first.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from bench.commands.tune.space import Space, distributions, recipe, with_values
from bench.config.cells import Cell, cells
from bench.config.matrix import Matrix, MethodConfig
from bench.launch.local import Report
from bench.records.record import Damaged, amend, cell_folder, read_record
from bench.utils.errors import UserError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STORAGE = "study.db"
CELL = "cell"
Go = Callable[[list[Cell], Path, Report], None]


@dataclass(frozen=True)
class Search:
    """What is asked for, the same for every method.

    Attributes:
        trials: per method.
        seed: of the draws.
    """

    trials: int
    space: Space
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """What a search that goes on must agree in; there may be more trials than before."""
        return {"search_seed": self.seed, **self.space.as_dict()}


def library() -> Any:
    """Optuna, which keeps quiet about what goes well.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("tune: Optuna is not installed; pip install 'iisan-bench[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_studies(matrix: Matrix, search: Search, out: Path) -> dict[str, Study]:
    """A study per method, kept in one SQLite file; trials that an earlier process left open are closed if they ended.

    Raises:
        UserError: the file holds another search, or more trials than are asked for, or cannot be read.
    """
    optuna = library()
    from sqlalchemy.exc import SQLAlchemyError

    path = (out / STORAGE).absolute()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{quote(str(path))}")  # a folder may be called "what?"
        return {method.name: _open(optuna, storage, method, search, out) for method in matrix.methods}
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"{path}: cannot be read as a study; restore it or choose another folder with --out") from error


def _open(optuna: Any, storage: Any, method: MethodConfig, search: Search, out: Path) -> Study:
    study: Study = optuna.create_study(
        study_name=method.name, storage=storage, direction="maximize", load_if_exists=True
    )
    before, now = study.user_attrs.get("search"), search.as_dict()
    if before is None:
        study.set_user_attr("search", now)
    elif before != now:
        key = next(key for key in now if before.get(key) != now[key])
        raise UserError(
            f"--out {out}: holds another search ({key}: there {before.get(key)}, now {now[key]}); choose another folder"
        )
    if len(study.trials) > search.trials:
        raise UserError(f"--trials {search.trials}: {out} holds {len(study.trials)} trials of {method.name} already")
    for trial in unfinished(study):
        if CELL not in trial.user_attrs or _ended(trial, out):
            close(study, trial, out)
    return study


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that have a result, whatever it is."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def unfinished(study: Study) -> list[FrozenTrial]:
    """The trial that was broken off, if any."""
    return [trial for trial in study.trials if not trial.state.is_finished()]


def run_trials(
    matrix: Matrix, device: str, search: Search, studies: Mapping[str, Study], out: Path, go: Go, report: Report
) -> None:
    """Runs what is left: the first trial of every method, then the second, so that a stop leaves them even.

    Raises:
        KeyboardInterrupt: as ``go``; the trial that was running stays open.
        UserError: as ``go``.
    """
    for number in range(search.trials):
        for method in matrix.methods:
            if len(finished(studies[method.name])) <= number:
                _trial(matrix, device, method, search, studies[method.name], out, go, report)


def _trial(
    matrix: Matrix,
    device: str,
    method: MethodConfig,
    search: Search,
    study: Study,
    out: Path,
    go: Go,
    report: Report,
) -> None:
    trial = next(iter(unfinished(study)), None) or _ask(matrix, device, method, search, study)
    cell = trial_cell(matrix, device, method, trial.params, trial.number)
    folder = cell_folder(out, cell.cell_id)
    before, started = _seconds(folder), time.monotonic()
    try:
        go([cell], out, report)
    except BaseException:
        if _ended(trial, out):
            close(study, trial, out)
        raise
    else:
        close(study, trial, out)
    finally:
        if read(folder) is not None:
            amend(folder, trial={"number": trial.number + 1, "seconds": before + time.monotonic() - started})


def _ask(matrix: Matrix, device: str, method: MethodConfig, search: Search, study: Study) -> FrozenTrial:
    optuna = library()
    draw = np.random.SeedSequence([search.seed, len(study.trials)]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(draw[0]))
    if not study.trials:
        with warnings.catch_warnings():  # it has been "experimental" since 2020
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.PartialFixedSampler(recipe(method, search.space), study.sampler)
    asked = study.ask(distributions(method, search.space))
    asked.set_user_attr(CELL, trial_cell(matrix, device, method, asked.params, asked.number).cell_id)
    return study.trials[asked.number]


def _seconds(folder: Path) -> float:
    """What an attempt that was broken off took, as far as it is known."""
    return float(((read(folder) or {}).get("trial") or {}).get("seconds") or 0.0)


def trial_cell(matrix: Matrix, device: str, method: MethodConfig, options: Mapping[str, Any], number: int) -> Cell:
    """The cell of a method with these options, which never looks at the test targets."""
    [cell] = cells(dataclasses.replace(matrix, methods=(with_values(method, options),)), device)
    return dataclasses.replace(cell, cell_id=f"{cell.cell_id}--t{number + 1}", test=False)


def close(study: Study, trial: FrozenTrial, out: Path) -> None:
    """Tells a study how a trial ended, by its record; without one that is whole and ok it has failed."""
    optuna = library()
    record = _record(trial, out)
    value = record["row"]["valid_hr@10"] if record is not None and record["row"]["status"] == "ok" else None
    if value is None:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial.number, value)


def _ended(trial: FrozenTrial, out: Path) -> bool:
    """Whether a trial came to an end of its own, good or bad."""
    record = _record(trial, out)
    return record is not None and record["row"]["status"] != "interrupted"


def _record(trial: FrozenTrial, out: Path) -> dict[str, Any] | None:
    cell = trial.user_attrs.get(CELL)
    return read(cell_folder(out, cell)) if cell else None


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a trial; None where there is none that can be relied on."""
    try:
        return read_record(folder)
    except (FileNotFoundError, Damaged):
        return None
