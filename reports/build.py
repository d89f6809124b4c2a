"""Writes what a reader gets of one run or of several: results.csv, summary.csv, report.md and figures/."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bench.errors import UserError
from reports.blocks import blocks
from reports.figures import FIGURES, Drawing, draw
from reports.load import load_run, merge
from reports.markdown import report
from reports.style import styles
from reports.tables import results, summary
from reports.text import guard_formulas


def build(run_dirs: Sequence[Path], out: Path) -> None:
    """Render the report of one run, or of several merged into one.

    Each file is written beside its place and then moved there, so that a reader never sees half of one. Nothing that
    a cell left behind is touched.

    Args:
        run_dirs: At least one run folder, none twice.
        out: Where the report goes: the run folder itself, or a folder that is new, empty, or holds an older report.

    Raises:
        UserError: a folder that is no run folder or is given twice, a malformed file, an `out` that holds something
            else.
    """
    _check(run_dirs, out)
    runs = [load_run(path) for path in run_dirs]
    records, merge_notes = merge(runs)
    cells = results(records)
    methods = summary(cells)
    compared = blocks(runs, records, cells, methods)
    looks = styles(methods["method"])
    drawings = [draw(block, looks) for block in compared]
    text = report(runs, compared, drawings, merge_notes, out)

    out.mkdir(parents=True, exist_ok=True)
    _write(out / "results.csv", _csv(cells))
    _write(out / "summary.csv", _csv(methods))
    _write_figures(out / "figures", [drawing for drawn in drawings for drawing in drawn])
    _write(out / "report.md", text.encode())


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
    if out.exists() and any(out.iterdir()) and not (out / "report.md").is_file():
        raise UserError(f"{out}: holds something else than a report")


def _csv(frame: pd.DataFrame) -> bytes:
    return guard_formulas(frame).to_csv(index=False, lineterminator="\n").encode()


def _write_figures(folder: Path, drawings: Sequence[Drawing]) -> None:
    """Write the figures, and take away those of an older report that this one does not have."""
    folder.mkdir(exist_ok=True)
    names = {f"{drawing.stem}.png" for drawing in drawings if drawing.png is not None}
    stems = "|".join(re.escape(stem) for stem, *_ in FIGURES)
    for old in folder.glob("*.png"):
        if old.name not in names and re.fullmatch(rf"({stems})(-\d+-.*)?\.png", old.name):
            old.unlink()
    for drawing in drawings:
        if drawing.png is not None:
            _write(folder / f"{drawing.stem}.png", drawing.png)


def _write(path: Path, content: bytes) -> None:
    """Write beside the file and move into place; nothing is left behind when that fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # mkstemp gives a file that only its owner may read
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
