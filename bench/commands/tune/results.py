"""What a search leaves: ``tuning.json`` with every trial, and ``best.toml``, a matrix with the best options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.commands.tune.space import with_values
from bench.commands.tune.study import CELL, Search, finished, read
from bench.config.matrix import Matrix, to_toml
from bench.records.record import cell_folder, write_json, write_text
from bench.records.tuned import Tuned

if TYPE_CHECKING:
    from optuna import Study

Trial = dict[str, Any]


def trials_of(study: Study, out: Path) -> list[Trial]:
    """Every trial that has ended, with its options and what its record says.

    ``seconds`` is the wall-clock time of the whole cell, ``joules`` the energy of its training; unknown is None.
    """
    found = []
    for trial in finished(study):
        cell = trial.user_attrs.get(CELL)
        record = read(cell_folder(out, cell)) if cell else None
        row = record["row"] if record is not None else {"status": "failed", "error": "left no record"}
        found.append(
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
    return found


def tuned(name: str, trials: Sequence[Trial], data: str | None) -> Tuned | None:
    """The best of a method's trials (of equal ones the first) and what all of them cost; None if none has a figure."""
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
    """Writes both files; gives what was found. A method without a trial that ended ok is in neither's best."""
    tried = {method.name: trials_of(studies[method.name], out) for method in matrix.methods}
    found = {name: one for name, trials in tried.items() if trials and (one := tuned(name, trials, data)) is not None}
    content = {
        "chosen_by": "valid_hr@10",
        "trials": search.trials,
        **search.as_dict(),
        "data": data,
        "methods": [
            {"name": name, "best": dataclasses.asdict(found[name]) if name in found else None, "trials": trials}
            for name, trials in tried.items()
        ],
    }
    write_json(out / "tuning.json", content)
    if found:
        methods = tuple(
            with_values(method, found[method.name].options) for method in matrix.methods if method.name in found
        )
        name = f"{matrix.name.removesuffix('-tuning')}-tuned"
        best = dataclasses.replace(matrix, name=name, methods=methods, tuning=tuple(found.values()))
        write_text(out / "best.toml", to_toml(best))
    return list(found.values())
