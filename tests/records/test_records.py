"""What a run folder vouches for: a bit that flips anywhere is noticed, and nothing that is whole is thrown away."""

import errno
import json
import multiprocessing
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from bench.config.cells import Cell, cells
from bench.config.matrix import parse, to_toml
from bench.records import run_folder
from bench.records.record import (
    Damaged,
    amend,
    cell_folder,
    failure,
    read_record,
    write_ranks,
    write_record,
    write_steps,
    write_text,
)
from bench.utils.errors import UserError
from bench.utils.files import SUMS
from tests.tiny import matrix


@pytest.fixture
def cell(model_folders: dict[str, Path]) -> Cell:
    return cells(parse(matrix(model_folders), "t"), "cpu")[0]


def a_cell(cell: Cell, run: Path, status: str = "ok", **row: Any) -> Path:
    folder = cell_folder(run, cell.cell_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_ranks(folder, ["a", "b"], [1, 2], [3, 4])
    write_steps(folder, [{"epoch": 1, "step": 1, "seconds": 0.5}], [1.25])
    record = failure(cell, status, "") | {"curve": [{"loss": 0.1, "text": "ä\u2028"}]}
    record["row"] |= {"hr@10": 1 / 3, "epoch_seconds": float("nan"), **row}
    write_record(folder, record)
    return folder


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_what_is_written_is_read_and_nothing_that_is_not_finite(cell: Cell, tmp_path: Path) -> None:
    record = read_record(a_cell(cell, tmp_path))
    assert record["row"]["hr@10"] == 1 / 3
    assert record["row"]["epoch_seconds"] is None
    assert set(record["files"]) == {"ranks.csv", "steps.csv"}


def test_no_flipped_bit_of_a_cell_goes_unnoticed(cell: Cell, tmp_path: Path) -> None:
    """White space aside, that is: what a record says is vouched for, not how it is laid out."""
    folder = a_cell(cell, tmp_path)
    draw = random.Random(0)
    tried = 0
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for bit in draw.sample(range(8 * len(whole)), 150):
            flip(path, bit)
            if path.name == "record.json":
                try:
                    same = json.loads(path.read_bytes()) == json.loads(whole)
                except ValueError:
                    same = False
                if same:
                    path.write_bytes(whole)
                    continue
            with pytest.raises(Damaged, match=path.name):
                run_folder.kept(tmp_path, cell.cell_id)
            tried += 1
            path.write_bytes(whole)
    assert tried > 400
    assert run_folder.kept(tmp_path, cell.cell_id) == "ok"


def test_a_file_that_is_gone_is_named(cell: Cell, tmp_path: Path) -> None:
    folder = a_cell(cell, tmp_path)
    (folder / "ranks.csv").unlink()
    with pytest.raises(Damaged, match=r"ranks\.csv: is missing"):
        read_record(folder)


@pytest.mark.parametrize("status", ["oom", "oom-host", "failed", "timeout", "hung", "diverged"])
def test_failures_are_results(status: str, cell: Cell, tmp_path: Path) -> None:
    a_cell(cell, tmp_path, status)
    assert run_folder.kept(tmp_path, cell.cell_id) == status
    assert run_folder.kept(tmp_path, cell.cell_id, retry_failed=True) is None


def test_an_interrupted_cell_is_none(cell: Cell, tmp_path: Path) -> None:
    assert run_folder.kept(tmp_path, cell.cell_id) is None
    a_cell(cell, tmp_path, "interrupted")
    assert run_folder.kept(tmp_path, cell.cell_id) is None


def test_amending_keeps_the_rest(cell: Cell, tmp_path: Path) -> None:
    folder = a_cell(cell, tmp_path, warnings="")
    before = read_record(folder)
    amend(folder, warnings=["busy"], ran={"node": "n1"})
    after = read_record(folder)
    assert after["warnings"] == ["busy"]
    assert after["row"]["warnings"] == "busy"
    assert after["ran"] == {"node": "n1"}
    assert after["curve"] == before["curve"]


def test_sums_cover_every_file_and_notice_each(cell: Cell, tmp_path: Path) -> None:
    a_cell(cell, tmp_path)
    for name in ("matrix.toml", "environment.json", "dataset.json", "report.md", "results.csv"):
        write_text(tmp_path / name, f"{name}\n")
    (tmp_path / "cells" / cell.cell_id / "stderr.txt").write_text("a warning\n")
    run_folder.seal(tmp_path)
    assert run_folder.damaged(tmp_path) == []
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != SUMS]
    assert len(files) == 9
    for path in files:
        whole = path.read_bytes()
        flip(path, 3)
        assert run_folder.damaged(tmp_path) == [path.relative_to(tmp_path).as_posix()]
        path.write_bytes(whole)
    files[0].unlink()
    assert len(run_folder.damaged(tmp_path)) == 1


def _hold(run: str, ready: Any) -> None:
    with run_folder.locked(Path(run)):
        ready.set()
        signal.pause()


def test_a_crash_leaves_no_lock_behind(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path / "run"), ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(UserError, match="another process"), run_folder.locked(tmp_path / "run"):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with run_folder.locked(tmp_path / "run"):
        pass


def test_a_disk_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with run_folder.locked(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert "no locks on this disk" in caplog.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": {"steps": 7, "batch_size": 16}}, "budget.epochs: there 2, now not set"),
        ({"seeds": [3, 4]}, "seeds: there 0, now 3, 4"),
        ({"methods": [{"name": "frozen"}]}, "methods: there "),
        ({"dataset": {"items": 60, "users": 40, "seed": 9}}, "dataset.seed: there 1, now 9"),
        ({"profile": 3}, ""),
    ],
)
def test_the_first_difference_is_named(changes: dict[str, Any], said: str, model_folders: dict[str, Path]) -> None:
    old, new = (to_toml(parse(matrix(model_folders, **change), "t")) for change in ({}, changes))
    found = run_folder.first_difference(old, new)
    assert found.startswith(said) if said else found == ""


def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no longer exists"):
        write_text(tmp_path / "run" / "cells" / "x.json", "x")
    assert list(tmp_path.iterdir()) == []
