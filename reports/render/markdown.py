"""report.md: the chapters of the report in their order, with all text from data escaped."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reports.analysis.comparison import Comparison
from reports.analysis.options import DEFAULT, Options
from reports.analysis.titles import of_runs
from reports.analysis.tuning_costs import costs
from reports.figures.drawing import Drawing
from reports.load.run_folders import Record, Run
from reports.sections import (
    accuracy,
    caching,
    computing,
    encoders,
    meters,
    plan_vs_measured,
    scores,
    tables_and_figures,
    theory,
    tuning,
)
from reports.sections.reader_warnings import find_warnings
from reports.sections.verdict import verdict
from reports.studies.study import Study
from reports.text import code_block, count, escape, size, table, visible

_SIZES = ("users", "items", "interactions", "train_interactions")
_APART = (*_SIZES, "name", "digest", "dropped", "notes", "references", "command", "encoders")


@dataclass(frozen=True)
class Chapter:
    """Part of the report under a heading of its own."""

    title: str
    """Title; it is escaped."""
    parts: Sequence[str]
    """Texts in Markdown; empty ones are left out."""
    comparison: Comparison | None = None
    """Comparison of the chapter, whose first part is then the main table; None for a chapter on all comparisons."""


def report(runs: Sequence[Run], parts: Sequence[Chapter]) -> str:
    """Whole report of some runs in Markdown, from its `chapters`."""
    text = [f"# {title(runs)}"]
    for chapter in parts:
        text += [f"## {chapter.title}", *chapter.parts]
    return "\n\n".join(part for part in text if part) + "\n"


def chapters(
    runs: Sequence[Run],
    comparisons: Sequence[Comparison],
    drawings: Sequence[Sequence[Drawing]],
    merge_notes: Sequence[str],
    out: Path,
    studies: Sequence[Study] = (),
) -> list[Chapter]:
    """Chapters of the report, in their order.

    Args:
        runs: Runs that were merged into the report, at least one.
        comparisons: Comparisons of the runs.
        drawings: Figures of each comparison, in the order of `comparisons`.
        merge_notes: Notes on cells that are in more than one run.
        out: Folder that the report is written to.
        studies: Studies of the comparisons.
    """
    warnings = find_warnings(runs, comparisons, merge_notes)
    below = f"{count(len(warnings))} [warning{'s' * (len(warnings) > 1)}](#warnings) below." if warnings else ""
    records = [record for comparison in comparisons for record in comparison.records]
    return [
        Chapter("Verdict", [*_verdicts(comparisons), below]),
        *(
            Chapter(
                escape(comparison.title), _about_comparison(comparison, drawn, alone=len(comparisons) == 1), comparison
            )
            for comparison, drawn in zip(comparisons, drawings, strict=True)
        ),
        *(
            Chapter(escape(study.title), [*study.markdown, tables_and_figures.figures(study.drawings)])
            for study in studies
        ),
        Chapter("Budget and methods", [_budgets(comparisons), _methods(records)]),
        Chapter("Data", _per_run(runs, _data)),
        Chapter("Environment", _per_run(runs, _environment)),
        Chapter("Warnings", ["\n".join(f"- {text}" for text in warnings) or "None."]),
        Chapter("Make it again", _commands(runs, out, comparisons[0].options)),
    ]


def title(runs: Sequence[Run]) -> str:
    """Title of the report, escaped."""
    names = [str(run.matrix.get("name") or run.path.resolve().name) for run in runs]
    return f"What fine-tuning costs and what it buys: {escape(of_runs(names))}"


def _verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    if len(comparisons) == 1:
        return [_points(comparisons[0])]
    return [f"_{escape(comparison.title)}:_\n\n{_points(comparison)}" for comparison in comparisons]


def _points(comparison: Comparison) -> str:
    return "\n".join(f"- {point}" for point in verdict(comparison))


def _about_comparison(comparison: Comparison, drawings: Sequence[Drawing], alone: bool) -> list[str]:
    suffix = "" if alone else f": {escape(comparison.title)}"
    warm_and_cold, of_cells = accuracy.warm_and_cold(comparison), computing.cells(comparison)
    return [
        tables_and_figures.main_table(comparison),
        tables_and_figures.failures(comparison),
        f"### Differences in accuracy{suffix}",
        accuracy.section(comparison),
        *([f"### Warm and cold targets{suffix}", warm_and_cold] if warm_and_cold else []),
        f"### How far to trust the TPME{suffix}",
        scores.robustness(comparison),
        f"### PSCP beside TPME{suffix}",
        scores.beside_pscp(comparison),
        f"### Theory against measurement{suffix}",
        theory.section(comparison),
        f"### Figures{suffix}",
        tables_and_figures.figures(drawings),
        f"### Planned against measured{suffix}",
        plan_vs_measured.section(comparison),
        f"### Memory by meter{suffix}",
        meters.section(comparison),
        f"### What the hidden-state cache costs{suffix}",
        caching.section(comparison),
        f"### Computing{suffix}",
        computing.section(comparison),
        *([f"### Where the seconds of a cell go{suffix}", of_cells] if of_cells else []),
        *([f"### What tuning cost{suffix}", tuning.section(comparison)] if costs(comparison) else []),
    ]


def _budgets(comparisons: Sequence[Comparison]) -> str:
    """Budget and training settings, the same for all methods; comparisons with the same settings are named together."""
    of_comparisons: dict[str, list[str]] = {}
    for comparison in comparisons:
        of_comparisons.setdefault(_settings(comparison.records), []).append(escape(comparison.title))
    if len(of_comparisons) == 1:
        return f"Settings that are the same for every method:\n\n{next(iter(of_comparisons))}"
    parts = [
        f"Settings that are the same for every method of {'; '.join(titles)}:\n\n{text}"
        for text, titles in of_comparisons.items()
    ]
    return "\n\n".join(parts)


def _settings(records: Sequence[Record]) -> str:
    settings = [values for record in records for values in (record.budget, record.training) if values]
    lines = list(dict.fromkeys(_pairs(values) for values in settings))
    for column, words in (("device", "device"), ("precision", "precision"), ("seed", "seeds")):
        known = dict.fromkeys(value for record in records if (value := record.row.get(column)) is not None)
        lines.append(f"{words} {', '.join(escape(value) for value in known) or 'unknown'}")
    return "\n".join(f"- {line}" for line in lines)


def _methods(records: Sequence[Record]) -> str:
    rows: dict[tuple[str, str], list[str]] = {}
    for record in records:
        method = record.method
        name, options = escape(method.get("name") or record.row["method"]), _pairs(method.get("options"))
        groups = [group for group in method.get("groups") or [] if isinstance(group, dict)]
        rates = ", ".join(f"{escape(group.get('name'))} {_plain(group.get('lr'))}" for group in groups)
        row = [name, options, rates, _pairs(method.get("adapted"))]
        # A cell that failed early has no groups; another cell of the same method may have them.
        if not any(rows.get((name, options), ["", "", "", ""])[2:]):
            rows[name, options] = row
    header = ["Method", "Options", "Learning rate per group", "Adapted modules per encoder"]
    return table(header, list(rows.values()), numbers_from=len(header))


def _pairs(value: object) -> str:
    if not isinstance(value, Mapping):
        return "" if value is None else escape(value)
    known = [(str(key).replace("_", " "), entry) for key, entry in value.items() if entry is not None]
    return ", ".join(f"{escape(key)} {_plain(entry)}" for key, entry in known)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else escape(value, limit=200)


def _per_run(runs: Sequence[Run], describe: Any) -> list[str]:
    """Description of each run; runs with the same description are named together."""
    described: dict[str, list[str]] = {}
    for run in runs:
        described.setdefault(describe(run), []).append(escape(run.path.resolve().name))
    if len(runs) == 1:
        return list(described)
    return [part for text, names in described.items() for part in (f"Of {', '.join(names)}:", text)]


def _data(run: Run) -> str:
    data = run.dataset
    if not data:
        return "Unknown, because the run has no dataset.json."
    lines = [f"- {escape(data.get('name') or 'unnamed')}, digest {escape(data.get('digest') or 'unknown')}"]
    known = [(key, data[key]) for key in _SIZES if isinstance(data.get(key), int)]
    if known:
        lines.append("- " + ", ".join(f"{count(value)} {key.replace('_', ' ')}" for key, value in known))
    dropped = data.get("dropped") or {}
    entries = dropped.items() if isinstance(dropped, Mapping) else [("dropped", dropped)]
    left_out = [f"{escape(reason)}: {count(n) if isinstance(n, int) else escape(n)}" for reason, n in entries]
    lines.append(f"- left out: {'; '.join(left_out) if left_out else 'nothing'}")
    for key, value in _flat({key: value for key, value in data.items() if key not in _APART}):
        lines.append(f"- {escape(key.replace('_', ' '))}: {_plain(value)}")
    lines += [f"- {escape(note)}" for note in data.get("notes") or []]
    return "\n\n".join(filter(None, ("\n".join(lines), encoders.section(run))))


def _environment(run: Run) -> str:
    rows = [
        [
            escape(key.replace("_", " ")),
            size(value) if key.endswith("_bytes") and isinstance(value, int) else _plain(value),
        ]
        for key, value in _flat(run.environment)
    ]
    return (
        table(["Environment", ""], rows, numbers_from=2)
        if rows
        else "Unknown, because the run has no environment.json."
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Flatten nested mappings: keys are joined by spaces, lists become text."""
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            rows.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            rows.append((f"{prefix}{key}", "none" if value is None or value == {} else value))
    return rows


def _commands(runs: Sequence[Run], out: Path, options: Options) -> list[str]:
    commands = [visible(str(run.dataset["command"])) for run in runs if run.dataset.get("command")]
    folders = " ".join(shlex.quote(visible(str(run.path))) for run in runs)
    target = f" --out {shlex.quote(visible(str(out)))}" if [run.path for run in runs] != [out] else ""
    again = f"python run_bench.py report {folders}{target}{_changed(options)}"
    parts = (
        [code_block("\n".join(dict.fromkeys(commands)))] if commands else ["The commands of the runs are not recorded."]
    )
    return [*parts, "The following command makes this report again from the records:", code_block(again)]


def _changed(options: Options) -> str:
    """Options of the command `report` that were given; files of the TPME and constants of the PSCP are left out."""
    listed = {"--k": (options.ks, DEFAULT.ks), "--weights": (options.weights, DEFAULT.weights)}
    changed = {flag: ",".join(map(str, own)) for flag, (own, usual) in listed.items() if own != usual}
    if options.within != DEFAULT.within:
        changed["--within"] = f"{100 * options.within:g}"
    if options.price_per_hour is not None:
        changed["--price-per-hour"] = f"{options.price_per_hour:g}"
    return "".join(f" {flag} {value}" for flag, value in changed.items())
