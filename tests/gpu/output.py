"""Files of a check: few and small, so that they can be added to the results of the project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.text import escape, table
from tests.gpu.line import Line

FIGURES = ("memory", "phases")


def markdown(lines: Sequence[Line]) -> str:
    """The table of the lines, and how many there are of each status."""
    rows = [[escape(text) for text in (line.what, line.figure, line.limit, line.status, line.reason)] for line in lines]
    counts = ", ".join(f"{sum(line.status == s for line in lines)} {s}" for s in ("ok", "failed", "skipped"))
    return table(["What", "Figure", "Limit", "", "Reason"], rows, numbers_from=5) + f"\n\n{counts}\n"


def plain(lines: Sequence[Line]) -> str:
    """The same for a terminal."""
    cells = [
        ("what", "figure", "limit", "", "reason"),
        *((x.what, x.figure, x.limit, x.status, x.reason) for x in lines),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def write(
    out: Path, title: str, lines: Sequence[Line], runs: Sequence[Path], main: Path, facts: dict[str, Any]
) -> None:
    """Write the files of a check into a folder.

    Args:
        title: what was checked.
        lines: the table.
        runs: run folders whose rows and records are kept.
        main: run folder whose figures and environment are kept; it need not exist.
        facts: entries of the top of the report.
    """
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame([vars(line) for line in lines]).to_csv(out / "lines.csv", index=False)
    written = [run for run in runs if (run / "results.csv").is_file()]
    if written:
        rows = [pd.read_csv(run / "results.csv").assign(run=run.name) for run in written]
        pd.concat(rows).to_csv(out / "results.csv", index=False)
    with (out / "records.jsonl").open("w", encoding="utf-8") as packed:
        for path in sorted(path for run in runs for path in run.glob("cells/*/record.json")):
            packed.write(json.dumps({"run": path.parents[2].name, **json.loads(path.read_bytes())}) + "\n")
    if (main / "environment.json").is_file():
        shutil.copyfile(main / "environment.json", out / "environment.json")
    shown = [name for name in FIGURES if (main / "figures" / f"{name}.png").is_file()]
    for name in shown:
        shutil.copyfile(main / "figures" / f"{name}.png", out / f"{name}.png")
    top = "\n".join(f"- {name}: {escape(value)}" for name, value in facts.items() if value is not None)
    figures = "\n\n".join(f"![{name}]({name}.png)" for name in shown)
    report = "\n\n".join(
        part for part in (f"# Check of {escape(title)}", top, markdown(lines).rstrip(), figures) if part
    )
    (out / "report.md").write_text(report + "\n", encoding="utf-8")
