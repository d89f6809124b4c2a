"""Result files of a search: ``tuning.json`` with every trial, and ``best.toml``, a matrix with the best options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.tune.space import with_values
from bench.commands.tune.study import CELL, Search, finished, read_trial_record
from bench.config.matrix import Matrix, to_toml
from bench.records.record import cell_folder, write_json, write_text
from bench.records.tuned import Tuned

if TYPE_CHECKING:
    from optuna import Study

Trial = dict[str, Any]


def trials_of(study: Study, out: Path) -> list[Trial]:
    """Every finished trial: its options, status, validation HR@10, time and energy.

    ``seconds`` is the wall-clock time of the whole cell, ``joules`` the energy of its training; None if unknown.
    """
    trials = []
    for trial in finished(study):
        cell = trial.user_attrs.get(CELL)
        record = read_trial_record(cell_folder(out, cell)) if cell else None
        row = record["row"] if record is not None else {"status": "failed", "error": "left no record"}
        trials.append(
            {
                "trial": trial.number + 1,
                "cell": cell,
                "status": row["status"],
                "error": row["error"],
                "options": trial.params,
                "valid_hr@10": trial.value if row["status"] == "ok" else None,
                "seconds": (record or {}).get("trial", {}).get("seconds"),
                "joules": row.get("energy_joules"),
            }
        )
    return trials


def tuned(name: str, trials: Sequence[Trial], data: str | None) -> Tuned | None:
    """The best trial of a method (the first of equals) and the cost of all trials; None if no trial has a result.

    Args:
        data: digest of the data, recorded with the result.
    """
    curve: list[tuple[int, float]] = []
    best = None
    for trial in trials:
        value = trial["valid_hr@10"]
        if value is not None and (best is None or value > best["valid_hr@10"]):
            best = trial
        if best is not None:
            curve.append((trial["trial"], best["valid_hr@10"]))
    if best is None:
        return None
    seconds = [trial["seconds"] for trial in trials if trial["seconds"] is not None]
    joules = [trial["joules"] for trial in trials if trial["joules"] is not None]
    return Tuned(
        name=name,
        trials=len(trials),
        failed=sum(trial["valid_hr@10"] is None for trial in trials),
        options=best["options"],
        curve=tuple(curve),
        timed=len(seconds),
        seconds=sum(seconds) if seconds else None,
        metered=len(joules),
        joules=sum(joules) if joules else None,
        data=data,
    )


def write_results(
    matrix: Matrix, search: Search, studies: Mapping[str, Study], out: Path, data: str | None
) -> list[Tuned]:
    """Writes ``tuning.json`` and, if a trial ended ok, ``best.toml``.

    Args:
        data: digest of the data.

    Returns:
        Result per method; methods without a trial that ended ok are left out, here and in ``best.toml``.
    """
    trials_by_method = {method.name: trials_of(studies[method.name], out) for method in matrix.methods}
    results = {name: tuned(name, trials, data) for name, trials in trials_by_method.items()}
    best = {name: result for name, result in results.items() if result is not None}
    content = {
        "chosen_by": "valid_hr@10",
        "trials": search.trials,
        **search.as_dict(),
        "data": data,
        "methods": [
            {"name": name, "best": dataclasses.asdict(best[name]) if name in best else None, "trials": trials}
            for name, trials in trials_by_method.items()
        ],
    }
    write_json(out / "tuning.json", content)
    if best:
        methods = tuple(
            with_values(method, best[method.name].options) for method in matrix.methods if method.name in best
        )
        name = f"{matrix.name.removesuffix('-tuning')}-tuned"
        best_matrix = dataclasses.replace(matrix, name=name, methods=methods, tuning=tuple(best.values()))
        write_text(out / "best.toml", to_toml(best_matrix))
    return list(best.values())
