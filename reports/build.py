"""Write the report of one run or of several: tables, report.md, report.html and figures."""

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
    within: float = DEFAULT.within,
    price_per_hour: float | None = None,
) -> None:
    """Render the report of one run, or of several merged into one.

    Each file is written under a temporary name and then renamed, so that a reader never sees half a file. The records
    of cells are not changed. A cell whose files are damaged is left out; the report and a line on standard error say
    so.

    Args:
        run_dirs: At least one run folder, none twice.
        out: Folder of the report: the run folder itself, or a folder that is new, empty, or holds nothing but an older
            report or runs.
        ks: Values of k for HR, NDCG and MRR; any other than 10 needs ranks.
        weights: Weights of time, parameters and memory in the TPME.
        reference: Table (method, time in seconds per epoch, params, memory in bytes) that sets the minima and maxima of
            the TPME.
        penalties: Constants and exponents of the PSCP.
        within: Share of the highest HR@10 that a cheaper method may lack to be recommended.
        price_per_hour: Price of an hour of the device, in any currency; without it no money is reported.

    Raises:
        UserError: a folder is not a run folder, is given twice or has no readable record; a file that belongs to all
            cells is malformed; `out` holds something else or cannot be written; a k cannot be computed; the weights do
            not sum to 1; the reference table has no row for a method.
    """
    _check(run_dirs, out)
    tpme.checked_weights(weights)
    runs = [load_run(path) for path in run_dirs]
    records, merge_notes = merge(runs)
    _check_ks(ks, runs, records)
    options = Options(
        tuple(sorted(set(ks))), tuple(weights), *_reference(reference, records), penalties, within, price_per_hour
    )
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
        raise UserError(f"{out}: holds a run, whose own report would be overwritten")
    if out.exists() and not (out / "report.md").is_file() and _others(out, resolved):
        raise UserError(f"{out}: holds files that are not part of a report")


def _others(out: Path, runs: Sequence[Path]) -> bool:
    """True if a folder holds anything but runs, some of which may have no record yet."""
    return any(path.resolve() not in runs and not (path / "matrix.toml").is_file() for path in out.iterdir())


def _check_ks(ks: Sequence[int], runs: Sequence[Run], records: Sequence[Record]) -> None:
    """Refuse a k below 1, a k that no cell has ranks for, and a k above the number of items."""
    if not ks or min(ks) < 1:
        raise UserError(f"--k {','.join(map(str, ks))}: expected whole numbers of at least 1")
    if any(k != 10 for k in ks) and not any(record.ranks for record in records):
        raise UserError(f"--k {','.join(map(str, ks))}: no cell has ranks.csv, so only k = 10 is known")
    for run in runs:
        items = run.dataset.get("items")
        if isinstance(items, int) and max(ks) > items:
            raise UserError(f"--k {max(ks)}: the catalogue of {run.path} has only {items} items")


def _reference(path: Path | None, records: Sequence[Record]) -> tuple[Costs | None, str]:
    """Costs by method of the table that sets minima and maxima, and the name of the table."""
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
    """Content of each figure file, by file name."""
    return {
        f"{drawing.stem}.{kind}": content
        for drawing in drawings
        for kind, content in (("png", drawing.png), ("svg", drawing.svg))
        if content is not None
    }


def _tables(comparisons: Iterable[Comparison], studies: Iterable[Study]) -> dict[str, bytes]:
    """Content of each table file, for the main tables and the tables of studies, by file name."""
    found = {stem_of("main", comparison): (frame(comparison), latex(comparison)) for comparison in comparisons}
    found |= {grid.stem: (grid_frame(grid), grid_latex(study.title, grid)) for study in studies for grid in study.grids}
    return {
        f"{stem}.{kind}": content
        for stem, (table, text) in found.items()
        for kind, content in (("csv", _csv(table)), ("tex", text.encode()))
    }


def _write_all(folder: Path, files: Mapping[str, bytes], stems: Iterable[str], kinds: str) -> None:
    """Write files to a folder, and remove files of an older report that are not among them."""
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
