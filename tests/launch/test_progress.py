"""Live progress of cells that run one after another and side by side."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.config.cells import Cell, cells
from bench.config.matrix import parse
from bench.launch.progress import Reporter
from tests.tiny import matrix

DONE = {"event": "done", "status": "ok", "hr@10": 0.25, "valid_hr@10": 0.25, "epoch_seconds": 1.0, "error": ""}


@pytest.fixture
def pair(model_folders: dict[str, Path]) -> list[Cell]:
    return cells(parse(matrix(model_folders, methods=[{"name": "frozen"}, {"name": "fft"}]), "f"), "cpu")


def reporter_on(out: Any, n_cells: int, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> Reporter:
    out.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", out)
    reporter = Reporter(n_cells)
    reporter.console = Console(file=out, force_terminal=terminal, highlight=False, soft_wrap=True, width=200)
    return reporter


def step(loss: float, seconds: float) -> dict[str, Any]:
    return {"event": "step", "progress": 0.5, "loss": loss, "train_seconds": seconds}


def validated(epoch: int, hr: float, loss: float) -> dict[str, Any]:
    return {"event": "evaluation", "epoch": epoch, "valid_hr@10": hr, "loss": loss}


@pytest.mark.parametrize("terminal", [True, False])
def test_events_of_cells_side_by_side_stay_apart(
    terminal: bool, pair: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second cell starts between a step and a validation of the first."""
    first, second = pair
    out = io.StringIO()
    with reporter_on(out, 2, monkeypatch, terminal=terminal) as reporter:
        reporter(first, {"event": "start"})
        reporter(first, step(4.5, 1.5))
        reporter(second, {"event": "start"})
        reporter(first, validated(1, 0.25, 4.5))
        reporter(second, step(3.25, 9.0))
        reporter(first, validated(2, 0.5, 4.25))
        reporter(first, DONE)
        reporter(second, validated(1, 0.125, 3.25))
        reporter(second, DONE)
    if terminal:
        return
    lines = [line.strip() for line in out.getvalue().splitlines()]
    assert lines[0] == f"[1/2] {first.cell_id}"
    assert lines[1] == f"[2/2] {second.cell_id}"
    assert lines[2] == f"{first.cell_id}, epoch 1: loss 4.500, validation HR@10 0.2500, 1.5 s of training"
    assert lines[3] == f"{first.cell_id}, epoch 2: loss 4.250, validation HR@10 0.5000, 1.5 s of training"
    assert lines[4].startswith(f"[1/2] {first.cell_id}: HR@10 0.2500")
    assert lines[5] == "epoch 1: loss 3.250, validation HR@10 0.1250, 9.0 s of training"
    assert lines[6].startswith(f"[2/2] {second.cell_id}: HR@10 0.2500")


def test_a_bar_per_running_cell(pair: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair
    out = io.StringIO()
    with reporter_on(out, 2, monkeypatch, terminal=True) as reporter:
        assert reporter.bars is not None
        reporter(first, {"event": "start"})
        reporter(second, {"event": "start"})
        reporter(second, step(3.25, 9.0))
        facts = {task.description: task.fields["facts"] for task in reporter.bars.tasks}
        assert facts["frozen"] == "set-up"
        assert facts["fft"] == "loss 3.250"
        reporter(first, DONE)
        assert [task.description for task in reporter.bars.tasks] == ["cells (1/2)", "fft"]
        reporter(second, DONE)
        assert [task.description for task in reporter.bars.tasks] == ["cells (2/2)"]
