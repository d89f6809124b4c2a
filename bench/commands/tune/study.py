"""The search: Optuna proposes options, each trial runs as a cell, and the cell's record gives the trial's result.

The first trial of every method uses the values of the recipe, so that no search ends with a worse result than it
started from. For every further trial the sampler is seeded anew with the trial's number, so that a resumed search
tries the same options as an uninterrupted one. An interrupted trial has no result: it stays open and runs again first.
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

from bench.commands.tune.space import Space, distributions, recipe_values, with_values
from bench.config.cells import Cell, cells
from bench.config.matrix import Matrix, MethodConfig
from bench.launch.local import Report
from bench.records.record import Damaged, amend, cell_folder, read_record
from bench.utils.errors import UserError

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

STORAGE = "study.db"
CELL = "cell"  # attribute of a trial that holds its cell id
RunCells = Callable[[list[Cell], Path, Report], None]


@dataclass(frozen=True)
class Search:
    """Settings of a search, the same for every method.

    Attributes:
        trials: number of trials per method.
        space: ranges of the searched options.
        seed: random seed of the search.
    """

    trials: int
    space: Space
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Settings that must not change when a search is resumed; the number of trials may grow."""
        return {"search_seed": self.seed, **self.space.as_dict()}


def library() -> Any:
    """The module Optuna, with its logging limited to warnings.

    Raises:
        UserError: Optuna is not installed; the message has the command that installs it.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("tune: Optuna is not installed; pip install 'iisan-bench[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_studies(matrix: Matrix, search: Search, out: Path) -> dict[str, Study]:
    """Opens or creates the study of each method, all in one SQLite file.

    Trials that an earlier process left open get the result in their record, if there is one.

    Raises:
        UserError: the file holds a search with other settings or more trials, or cannot be read.
    """
    optuna = library()
    from sqlalchemy.exc import SQLAlchemyError

    path = (out / STORAGE).absolute()
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{quote(str(path))}")  # the path may hold ? or %
        return {method.name: _open(optuna, storage, method, search, out) for method in matrix.methods}
    except (SQLAlchemyError, sqlite3.Error, optuna.exceptions.StorageInternalError) as error:
        raise UserError(f"{path}: cannot be read as a study; restore it or choose another folder with --out") from error


def _open(optuna: Any, storage: Any, method: MethodConfig, search: Search, out: Path) -> Study:
    study: Study = optuna.create_study(
        study_name=method.name, storage=storage, direction="maximize", load_if_exists=True
    )
    stored, settings = study.user_attrs.get("search"), search.as_dict()
    if stored is None:
        study.set_user_attr("search", settings)
    elif stored != settings:
        key = next(key for key in settings if stored.get(key) != settings[key])
        raise UserError(
            f"--out {out}: holds another search ({key}: there {stored.get(key)}, now {settings[key]}); "
            "choose another folder"
        )
    if len(study.trials) > search.trials:
        raise UserError(f"--trials {search.trials}: {out} holds {len(study.trials)} trials of {method.name} already")
    for trial in unfinished(study):
        if CELL not in trial.user_attrs or _ended(trial, out):
            tell_result(study, trial, out)
    return study


def finished(study: Study) -> list[FrozenTrial]:
    """Trials of a study that have a result or have failed."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def unfinished(study: Study) -> list[FrozenTrial]:
    """Trials of a study that are open because they were interrupted."""
    return [trial for trial in study.trials if not trial.state.is_finished()]


def run_trials(
    matrix: Matrix,
    device: str,
    search: Search,
    studies: Mapping[str, Study],
    out: Path,
    run_cells: RunCells,
    report: Report,
) -> None:
    """Runs the remaining trials, one of each method in turn, so that numbers of trials stay even if the search stops.

    Args:
        studies: name of a method -> its study.
        run_cells: function that runs cells in a run folder, such as ``bench.launch.local.run_local``.

    Raises:
        KeyboardInterrupt: as ``run_cells``; the trial that was running stays open.
        UserError: as ``run_cells``.
    """
    for number in range(search.trials):
        for method in matrix.methods:
            if len(finished(studies[method.name])) <= number:
                _run_trial(matrix, device, method, search, studies[method.name], out, run_cells, report)


def _run_trial(
    matrix: Matrix,
    device: str,
    method: MethodConfig,
    search: Search,
    study: Study,
    out: Path,
    run_cells: RunCells,
    report: Report,
) -> None:
    """Runs the open trial of a study, or a new one, and tells the study its result."""
    trial = next(iter(unfinished(study)), None) or _new_trial(matrix, device, method, search, study)
    cell = trial_cell(matrix, device, method, trial.params, trial.number)
    folder = cell_folder(out, cell.cell_id)
    earlier, started = _recorded_seconds(folder), time.monotonic()
    try:
        run_cells([cell], out, report)
    except BaseException:
        if _ended(trial, out):
            tell_result(study, trial, out)
        raise
    else:
        tell_result(study, trial, out)
    finally:
        if read_trial_record(folder) is not None:
            amend(folder, trial={"number": trial.number + 1, "seconds": earlier + time.monotonic() - started})


def _new_trial(matrix: Matrix, device: str, method: MethodConfig, search: Search, study: Study) -> FrozenTrial:
    """Adds a trial to a study, with the recipe's values if it is the first, and returns it."""
    optuna = library()
    seed = np.random.SeedSequence([search.seed, len(study.trials)]).generate_state(1)
    study.sampler = optuna.samplers.TPESampler(seed=int(seed[0]))
    if not study.trials:
        with warnings.catch_warnings():  # Optuna has marked this sampler as experimental since 2020
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.PartialFixedSampler(recipe_values(method, search.space), study.sampler)
    trial = study.ask(distributions(method, search.space))
    trial.set_user_attr(CELL, trial_cell(matrix, device, method, trial.params, trial.number).cell_id)
    return study.trials[trial.number]


def _recorded_seconds(folder: Path) -> float:
    """Seconds of earlier, interrupted attempts at a trial; 0 if its record does not have them."""
    return float(((read_trial_record(folder) or {}).get("trial") or {}).get("seconds") or 0.0)


def trial_cell(matrix: Matrix, device: str, method: MethodConfig, options: Mapping[str, Any], number: int) -> Cell:
    """The cell of a trial, which does not evaluate the test targets.

    Args:
        options: searched option -> value.
        number: number of the trial, from 0.
    """
    [cell] = cells(dataclasses.replace(matrix, methods=(with_values(method, options),)), device)
    return dataclasses.replace(cell, cell_id=f"{cell.cell_id}--t{number + 1}", test=False)


def tell_result(study: Study, trial: FrozenTrial, out: Path) -> None:
    """Tells a study the result in a trial's record; a trial without an intact record of status ok has failed."""
    optuna = library()
    record = _record(trial, out)
    value = record["row"]["valid_hr@10"] if record is not None and record["row"]["status"] == "ok" else None
    if value is None:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial.number, value)


def _ended(trial: FrozenTrial, out: Path) -> bool:
    """True if the record of a trial shows that the trial ended, ok or not, without an interruption."""
    record = _record(trial, out)
    return record is not None and record["row"]["status"] != "interrupted"


def _record(trial: FrozenTrial, out: Path) -> dict[str, Any] | None:
    cell = trial.user_attrs.get(CELL)
    return read_trial_record(cell_folder(out, cell)) if cell else None


def read_trial_record(folder: Path) -> dict[str, Any] | None:
    """Record in the folder of a trial's cell; None if it is missing or damaged."""
    try:
        return read_record(folder)
    except (FileNotFoundError, Damaged):
        return None
