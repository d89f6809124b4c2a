"""Writes what a reader gets of one run or of several: tables, report.md, report.html and figures."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pandas as pd

from bench.scoring import tpme
from bench.scoring.pscp import Penalties
from bench.utils.errors import UserError
from bench.utils.files import atomic_path
from reports.analysis.comparison import Comparison, split_into_comparisons
from reports.analysis.options import DEFAULT, Costs, Options
from reports.analysis.tables import results, summary
from reports.figures.all_figures import STEMS as FIGURES
from reports.figures.all_figures import draw
from reports.figures.drawing import Drawing
from reports.figures.style import styles_of
from reports.load.run_folders import Record, Run, load_run, merge
from reports.render.exports import frame, grid_frame, grid_latex, latex, stem_of
from reports.render.html import page
from reports.render.markdown import chapters, report
from reports.studies.all_studies import STEMS as STUDIES
from reports.studies.all_studies import studies
from reports.studies.study import Study
from reports.text import guard_formulas


def build(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    ks: Sequence[int] = DEFAULT.ks,
    weights: Sequence[float] = DEFAULT.weights,
    reference: Path | None = None,
    penalties: Penalties = DEFAULT.penalties,
) -> None:
    """Render the report of one run, or of several merged into one.

    Each file is written beside its place and then moved there, so that a reader never sees half of one. Nothing that
    a cell left behind is touched. A cell whose files are damaged is left out, which the report and a line on standard
    error say.

    Args:
        run_dirs: At least one run folder, none twice.
        out: Where the report goes: the run folder itself, or a folder that is new, empty, or holds an older report or
            runs alone.
        ks: HR, NDCG and MRR are computed at each; needs ranks but for 10.
        weights: Of time, parameters and memory in the TPME.
        reference: A table (method, time in seconds per epoch, params, memory in bytes) that pins the minima and maxima.
        penalties: Constants and exponents of the PSCP.

    Raises:
        UserError: a folder that is no run folder or is given twice, one without any record that can be read, a
            malformed file that belongs to all cells, an `out` that holds something else or cannot be written, a k
            that cannot be computed, weights that do not sum to 1, a reference table without a method.
    """
    _check(run_dirs, out)
    tpme.checked_weights(weights)
    runs = [load_run(path) for path in run_dirs]
    records, merge_notes = merge(runs)
    _check_ks(ks, runs, records)
    options = Options(tuple(sorted(set(ks))), tuple(weights), *_reference(reference, records), penalties)
    cells = results(records, options)
    methods = summary(cells, options)
    compared = split_into_comparisons(runs, records, cells, methods, options)
    styles = styles_of(methods["method"])
    found = studies(compared, styles)
    drawings = [*(draw(comparison, styles) for comparison in compared), *(study.drawings for study in found)]
    parts = chapters(runs, compared, drawings[: len(compared)], merge_notes, out, found)
    text, markup = report(runs, parts), page(runs, parts, drawings, styles)

    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / "results.csv", _csv(cells))
        _write(out / "summary.csv", _csv(methods))
        _write_all(out / "figures", _figures(chain(*drawings)), [*FIGURES, *STUDIES], "png|svg")
        _write_all(out / "tables", _tables(compared, found), ["main", *STUDIES], "csv|tex")
        _write(out / "report.md", text.encode())
        _write(out / "report.html", markup.encode())
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    for damage in (text for run in runs for text in run.damaged):
        print(f"report: {damage}", file=sys.stderr)


def _check(run_dirs: Sequence[Path], out: Path) -> None:
    if not run_dirs:
        raise UserError("no run folder was given")
    resolved = [path.resolve() for path in run_dirs]
    for path in resolved:
        if resolved.count(path) > 1:
            raise UserError(f"{path}: the same run folder is given twice")
    if resolved == [out.resolve()]:
        return
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: not a folder")
    if (out / "matrix.toml").exists():
        raise UserError(f"{out}: holds a run, a report of other runs would overwrite its own")
    if out.exists() and not (out / "report.md").is_file() and _others(out, resolved):
        raise UserError(f"{out}: holds something else than a report")


def _others(out: Path, runs: Sequence[Path]) -> bool:
    """Whether a folder holds something beside runs; one of several datasets may not have ended a cell yet."""
    return any(path.resolve() not in runs and not (path / "matrix.toml").is_file() for path in out.iterdir())


def _check_ks(ks: Sequence[int], runs: Sequence[Run], records: Sequence[Record]) -> None:
    """A k that is none, that no cell can answer for, or that every rank is within, is a mistake."""
    if not ks or min(ks) < 1:
        raise UserError(f"--k {','.join(map(str, ks))}: expected whole numbers of at least 1")
    if any(k != 10 for k in ks) and not any(record.ranks for record in records):
        raise UserError(f"--k {','.join(map(str, ks))}: no cell has left ranks.csv, so only k = 10 is known")
    for run in runs:
        items = run.dataset.get("items")
        if isinstance(items, int) and max(ks) > items:
            raise UserError(f"--k {max(ks)}: the catalogue of {run.path} has only {items} items")


def _reference(path: Path | None, records: Sequence[Record]) -> tuple[Costs | None, str]:
    """The table that pins minima and maxima, by method, and its name."""
    if path is None:
        return None, ""
    methods = dict.fromkeys(str(record.row["method"]) for record in records if record.ok)
    table = tpme.read_reference(path, methods)
    return {
        str(row["method"]): {name: float(row[name]) for name in tpme.COLUMNS} for row in table.to_dict("records")
    }, (path.name)


def _csv(frame: pd.DataFrame) -> bytes:
    return guard_formulas(frame).to_csv(index=False, lineterminator="\n").encode()


def _figures(drawings: Iterable[Drawing]) -> dict[str, bytes]:
    """Each figure that was drawn, by the name of its file."""
    return {
        f"{drawing.stem}.{kind}": content
        for drawing in drawings
        for kind, content in (("png", drawing.png), ("svg", drawing.svg))
        if content is not None
    }


def _tables(comparisons: Iterable[Comparison], studies: Iterable[Study]) -> dict[str, bytes]:
    """The main table of each comparison and those of the studies, by the name of their files."""
    found = {stem_of("main", comparison): (frame(comparison), latex(comparison)) for comparison in comparisons}
    found |= {grid.stem: (grid_frame(grid), grid_latex(study.title, grid)) for study in studies for grid in study.grids}
    return {
        f"{stem}.{kind}": content
        for stem, (table, text) in found.items()
        for kind, content in (("csv", _csv(table)), ("tex", text.encode()))
    }


def _write_all(folder: Path, files: Mapping[str, bytes], stems: Iterable[str], kinds: str) -> None:
    """Write files, and take away those of an older report that this one does not have."""
    folder.mkdir(exist_ok=True)
    own = re.compile(rf"({'|'.join(map(re.escape, stems))})(-\d+-.*)?\.({kinds})")
    for old in folder.iterdir():
        if old.name not in files and own.fullmatch(old.name):
            old.unlink()
    for name, content in files.items():
        _write(folder / name, content)


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as partial:
        partial.write_bytes(content)
