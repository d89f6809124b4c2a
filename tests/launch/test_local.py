import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bench.config.cells import Cell, cells
from bench.config.matrix import parse
from bench.launch import fork_server
from bench.launch.local import run_local
from bench.records import run_folder
from bench.records.record import cell_folder
from tests.tiny import matrix, one_cell


@pytest.mark.slow
def test_a_cell_killed_from_outside_becomes_a_record(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = one_cell(model_folders, budget={"seconds": 600, "batch_size": 16})
    started: list[fork_server.ForkedProcess] = []
    real = fork_server.start

    def remember(*args: Any) -> fork_server.ForkedProcess:
        started.append(real(*args))
        return started[-1]

    monkeypatch.setattr(fork_server, "start", remember)

    def report(_: Cell, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            os.kill(started[0].pid, signal.SIGKILL)

    run_local([cell], tmp_path, report)
    row = json.loads((cell_folder(tmp_path, cell.cell_id) / "record.json").read_text())["row"]
    assert row["status"] == "oom-host"
    assert "signal 9" in row["error"]
    assert row["hr@10"] is None


@pytest.mark.slow
def test_an_interrupt_stops_the_cell_and_says_so(model_folders: dict[str, Path], tmp_path: Path) -> None:
    cells_to_run = cells(parse(matrix(model_folders, budget={"seconds": 600, "batch_size": 16}), "t"), "cpu")[:2]

    def report(_: Cell, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_local(cells_to_run, tmp_path, report)
    folders = [cell_folder(tmp_path, cell.cell_id) for cell in cells_to_run]
    assert json.loads((folders[0] / "record.json").read_text())["row"]["status"] == "interrupted"
    assert list(folders[1].iterdir()) == []
    assert run_folder.kept(tmp_path, cells_to_run[0].cell_id) is None


def test_events_arrive_in_order_and_nothing_else_is_said(model_folders: dict[str, Path], tmp_path: Path) -> None:
    cell = one_cell(model_folders, budget={"epochs": 1, "batch_size": 16})
    seen: list[str] = []
    run_local([cell], tmp_path, lambda _, event: seen.append(event["event"]))
    assert seen[0] == "start"
    assert seen[-1] == "done"
    assert seen.count("step") == 3
    assert seen.index("evaluation") > seen.index("step")
    assert run_folder.kept(tmp_path, cell.cell_id) == "ok"
    assert (cell_folder(tmp_path, cell.cell_id) / "stderr.txt").read_text() == ""
