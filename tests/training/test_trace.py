"""The trace that is asked for: what it holds, and that it changes nothing of the measurement."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import parse, to_toml
from bench.records.columns import PHASES
from bench.records.record import write_trace
from bench.utils.errors import UserError
from tests.conftest import CellRecord
from tests.tiny import cell_of, matrix


def traced(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "trace.json").read_text())["traceEvents"]


def test_a_traced_cell_measures_what_an_untraced_one_does(
    model_folders: dict[str, Path], tmp_path: Path, cell_record: CellRecord
) -> None:
    plain, untraced = cell_record("iisan-cached")
    phases: list[str] = []
    record = run_cell(
        cell_of("iisan-cached", model_folders, profile=2),
        tmp_path / "traced",
        lambda event: phases.append(event["phase"]) if event["event"] == "phase" else None,
    )
    assert record["row"]["status"] == "ok", record
    assert phases[-2:] == ["trace", "plan"]  # after training and test
    assert record["row"]["cell_id"] == plain["row"]["cell_id"]
    for column in ("hr@10", "valid_hr@10", "peak_memory_bytes", "flops_forward", "steps"):
        assert record["row"][column] == plain["row"][column]
    assert [p["loss"] for p in record["curve"]] == [p["loss"] for p in plain["curve"]]
    assert len(pd.read_csv(tmp_path / "traced" / "steps.csv")) == plain["row"]["steps"]
    assert not (untraced / "trace.json").exists()
    assert plain["trace"] is None
    assert record["trace"] == {"steps": 2, "gpu_busy_share": None}  # a CPU runs no kernels


@pytest.mark.usefixtures("no_plan")
def test_the_trace_has_as_many_whole_steps_as_were_asked_for(model_folders: dict[str, Path], tmp_path: Path) -> None:
    record = run_cell(cell_of("frozen", model_folders, profile=2), tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok", record
    events = [event for event in traced(tmp_path) if event.get("ph") == "X"]
    steps = [event for event in events if event["name"].startswith("ProfilerStep")]
    assert len(steps) == 2
    # No hooks are on in the trace: what the backbones do stands under "forward".
    for phase in set(PHASES) - {"backbone"}:
        spans = [event for event in events if event["name"] == phase and event.get("cat") == "user_annotation"]
        assert len(spans) == 2, phase
        for span, step in zip(sorted(spans, key=_start), sorted(steps, key=_start), strict=True):
            assert step["ts"] <= span["ts"] <= span["ts"] + span["dur"] <= step["ts"] + step["dur"]
    forward = next(event for event in events if event["name"] == "forward")
    inside = [e for e in events if e["name"] == "aten::linear" and _within(e, forward)]
    assert len(inside) > 10


def _start(event: dict[str, Any]) -> float:
    return float(event["ts"])


def _within(event: dict[str, Any], span: dict[str, Any]) -> bool:
    return bool(span["ts"] <= event["ts"] <= span["ts"] + span["dur"])


@pytest.mark.usefixtures("no_plan")
def test_a_trace_that_cannot_be_written_is_a_warning(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, export: Any) -> None:
        raise UserError(f"{folder / 'trace.json'}: No space left on device")

    monkeypatch.setattr("bench.training.trace.write_trace", full)
    record = run_cell(cell_of("frozen", model_folders, profile=1), tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok"
    assert any("no trace" in warning and "No space left" in warning for warning in record["warnings"])


def test_a_file_that_cannot_be_written_names_itself(tmp_path: Path) -> None:
    def fail(path: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"trace\.json: No space left on device"):
        write_trace(tmp_path, fail)
    assert list(tmp_path.iterdir()) == []


def test_the_number_of_steps_is_no_part_of_what_a_cell_is(model_folders: dict[str, Path]) -> None:
    with_trace, without = (
        cells(parse(matrix(model_folders, **changes), "t"), "cpu") for changes in ({"profile": 3}, {})
    )
    assert [c.cell_id for c in with_trace] == [c.cell_id for c in without]
    assert {c.profile for c in with_trace} == {3}
    assert Cell.from_json(with_trace[0].to_json()) == with_trace[0]
    assert "profile" not in to_toml(parse(matrix(model_folders), "t"))
    assert "profile = 3" in to_toml(parse(matrix(model_folders, profile=3), "t"))


@pytest.mark.parametrize("wrong", [0, -1, 101, "two"])
def test_bad_numbers_of_steps_are_refused(wrong: Any, model_folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="--profile"):
        parse(matrix(model_folders, profile=wrong), "t", {("profile",): "--profile"})
