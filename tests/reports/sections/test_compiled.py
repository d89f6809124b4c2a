"""Tests of the section on compiled steps: compilations, and notes on figures that are of eager steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.utils.errors import UserError
from reports.analysis.comparison import Comparison
from reports.analysis.tradeoff import comparable_costs
from reports.sections import computing, meters, plan_vs_measured, reader_warnings, scores, theory
from tests.reports.factory import make_run, write_json
from tests.reports.reading import read_comparison, tables

TOLD = {"seconds": 12.5, "graphs": 4, "graph_breaks": 1, "from_cache": 2, "timed": 3, "timed_seconds": 0.25}
EAGER = "are those of an eager step"


def comparison_of(path: Path, on: bool = True, **row: object) -> Comparison:
    run = make_run(path, ["fft", "lora"], [0], **row)
    for file in (run / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        training = {**record["training"], "compile": on}
        write_json(file, {**record, "training": training, "compile": TOLD if on else None})
    return read_comparison(run)


def test_compilations_are_listed(tmp_path: Path) -> None:
    header, *rows = tables(computing.section(comparison_of(tmp_path / "run")))[-1]
    assert [row[0] for row in rows] == ["fft", "lora"]
    cells = dict(zip(header, rows[0], strict=True))
    assert (cells["Compiling"], cells["Their time"]) == ("12.5 s", "0.250 s")
    names = ("Graphs", "Graph breaks", "From torch's cache", "While steps were timed")
    assert [cells[name] for name in names] == ["4", "1", "2", "3"]
    assert "Graphs" not in computing.section(comparison_of(tmp_path / "eager", on=False))


def test_figures_of_eager_steps_have_a_note(tmp_path: Path) -> None:
    for on in (True, False):
        comparison = comparison_of(tmp_path / str(on), on)
        for module in (meters, plan_vs_measured, theory, computing):
            assert (EAGER in module.section(comparison)) is on


def test_without_memory_there_is_no_tpme_and_it_says_why(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "cpu", peak_memory_bytes=None, memory_source=None)
    assert comparison.results["tpme"].isna().all()
    with pytest.raises(UserError, match="no meter measured the memory of compiled steps"):
        comparable_costs(comparison)
    assert "TPME cannot be computed: no meter measured the memory" in scores.robustness(comparison)
    assert any(
        "peak memory and TPME are left empty" in text for text in reader_warnings.find_warnings([], [comparison], [])
    )


def test_memory_of_a_card_is_that_of_compiled_steps(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "card", device="cuda:0", memory_source="nvml_process_bytes")
    assert set(comparable_costs(comparison)) == {"fft", "lora"}
    assert not any("left empty" in text for text in reader_warnings.find_warnings([], [comparison], []))
