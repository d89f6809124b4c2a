"""Tests of the main table as LaTeX and CSV: its numbers, and the escaping of text from data."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pandas as pd
import pytest

from reports.analysis.main_table import COLUMNS
from reports.build import build
from reports.render.exports import frame, grid_frame, grid_latex, latex
from reports.studies.study import Grid, Strong
from reports.text import escape_latex
from tests.reports.factory import METHODS, make_run
from tests.reports.reading import comparison_of


@pytest.mark.usefixtures("no_figures")
def test_tables_of_every_comparison_lie_beside_the_report(built: Path, tmp_path: Path) -> None:
    table = pd.read_csv(built / "tables" / "main.csv")
    methods = pd.read_csv(built / "summary.csv").set_index("method")
    assert table["kind"].tolist() == ["floor"] * 2 + ["method"] * 8 + ["ceiling"] * 2
    for _, row in table[table["kind"] == "method"].iterrows():
        for column in COLUMNS:
            assert row[column.name] == pytest.approx(methods.at[row["method"], column.name], rel=1e-12)
    by_score = methods.sort_values("tpme")
    assert table["trainable_params"].dropna().tolist() == by_score["trainable_params"].tolist()
    assert ",98000," in (built / "tables" / "main.csv").read_text()  # whole numbers stay whole
    two = [make_run(tmp_path / str(place), ["lora"], [0], text_model=f"t{place}") for place in range(2)]
    build(two, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out" / "tables").glob("main*")}
    assert names == {f"main-{place}-shop-text-image-t{place - 1}-shop-absent.{kind}"
                     for place in (1, 2) for kind in ("csv", "tex")}  # fmt: skip
    build(two[:1], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "tables").iterdir()} == {"main.csv", "main.tex"}


def test_figures_not_measured_are_missing(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", seeds=[0], changes={"lora": {"status": "oom", "error": "x"}})
    row = frame(comparison).set_index("method").loc["lora"]
    assert row.drop(["kind", "seeds"]).isna().all()
    assert row["seeds"] == 0
    assert r"lora & \textit{oom} &  &  &  &  &  \\" in latex(comparison)


def test_rows_of_latex_have_the_columns_of_the_table(tmp_path: Path) -> None:
    names = [*list(METHODS)[:2], "[x]", "*", "a & b \\\\ \\hline", "50%", "{", "$x^2$_#~"]
    text = latex(comparison_of(tmp_path / "run", methods=names, seeds=[0, 1], dataset="d}%&"))
    body = text.partition("\\toprule\n")[2].partition("\\bottomrule")[0]
    rows = [line for line in body.splitlines() if line != r"\midrule"]
    assert len(rows) == 1 + 4 + len(names)
    for row in rows:
        assert row.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", row)) == len(COLUMNS)
        assert not row.startswith(("[", "*"))
    bare = re.sub(r"\\.", "", text.partition("\n")[2])
    assert bare.count("{") == bare.count("}")
    assert "%" not in bare
    assert "#" not in bare
    assert text.count(r"\midrule") == 3
    assert text.count(r"\textbf{") == 6


def test_every_character_that_latex_takes_for_itself_is_escaped() -> None:
    for character in string.punctuation:
        assert escape_latex(character) == character or character in "\\{}$&#_^%~<>|\"[]*'`"
    assert escape_latex(r"a_b% \c{d}") == r"a\_b\% \textbackslash{}c\{d\}"
    assert escape_latex("a--b---c") == "a-{}-b-{}-{}-c"
    assert escape_latex("one\n two\x1b") == "one two"
    assert escape_latex("± × −") == r"$\pm$ $\times$ $-$"


@pytest.mark.usefixtures("no_figures")
def test_tables_of_studies_lie_beside_the_main_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, ["frozen", "lora"], [0], text_model=name) for name in ("a", "b_c")]
    build(runs, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "tables" / "backbones.csv")
    text = (tmp_path / "out" / "report.md").read_text().split("## Encoders")[1]
    shown = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [*table.columns] == shown[0]
    assert table["Encoders"].tolist() == ["a + shop-absent"] * 2 + ["b_c + shop-absent"] * 2
    assert table["HR@10"].astype(str).tolist() == [row[3] for row in shown[2:6]]
    tex = (tmp_path / "out" / "tables" / "backbones.tex").read_text()
    assert r"b\_c + shop-absent & lora & " in tex
    build(runs[:1], tmp_path / "out")
    assert not list((tmp_path / "out" / "tables").glob("backbones*"))


def test_bold_cells_in_all_formats_and_escaped_text() -> None:
    grid = Grid("t", ["Method", "a|b"], [["x_1*", Strong("+0.1")], ["y", "50% ± 1"]])
    assert grid.markdown().splitlines() == [
        r"| Method | a\|b |",
        "| --- | ---: |",
        r"| x\_1\* | **+0.1** |",
        "| y | 50% ± 1 |",
    ]
    assert grid_frame(grid).to_numpy().tolist() == [["x_1*", "+0.1"], ["y", "50% ± 1"]]
    body = grid_latex("T & U", grid)
    assert r"\caption{T \& U}" in body
    assert r"y & 50\% $\pm$ 1 \\" in body
    [line] = [line for line in body.splitlines() if line.startswith("x")]
    assert line.endswith(r"& \textbf{+0.1} \\")
