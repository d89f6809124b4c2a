"""How the end of a cell's process is told apart, and that nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.config.cells import Cell
from bench.launch import fork_server, supervisor
from bench.launch.supervisor import Limits, run_cell_process
from bench.records.record import read_record
from tests.tiny import one_cell

Body = Callable[[str], None]


@pytest.fixture
def cell(model_folders: dict[str, Path]) -> Cell:
    return one_cell(model_folders)


@pytest.fixture(params=[supervisor.start_interpreter, fork_server.start], ids=["interpreter", "fork"])
def start(request: pytest.FixtureRequest) -> supervisor.Start:
    """Either way to start a cell's process."""
    chosen: supervisor.Start = request.param
    return chosen


@pytest.fixture
def body(start: supervisor.Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Body:
    """Has the cell's real process do something else than a cell."""

    def replace(code: str) -> None:
        (tmp_path / "body.py").write_text(code, encoding="utf-8")
        monkeypatch.setattr(supervisor, "WORKER", "tests.launch.stand_in")
        monkeypatch.setattr(supervisor, "start_interpreter", start)

    return replace


def row_of(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = read_record(folder)["row"]
    return row


def ended(pid: int, within: float = 5.0) -> bool:
    stop = time.monotonic() + within
    while time.monotonic() < stop:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def run(cell: Cell, folder: Path, stop: threading.Event | None = None, **limits: Any) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []
    run_cell_process(cell, folder, seen.append, Limits(**limits), stop or threading.Event())
    return seen


SPAWN = """
near = subprocess.Popen(["sleep", "300"])
far = subprocess.Popen(["sleep", "300"], start_new_session=True)
open(os.path.join(folder, "pids"), "w").write(f"{os.getpid()} {near.pid} {far.pid}")
print('{"event": "step"}', flush=True)
"""


def test_a_cell_without_a_sign_of_life_is_hung_and_its_stacks_are_kept(cell: Cell, body: Body, tmp_path: Path) -> None:
    body(SPAWN + "def where_it_waits():\n    time.sleep(300)\nwhere_it_waits()")
    run(cell, tmp_path, hang_seconds=1.0)
    row = row_of(tmp_path)
    assert row["status"] == "hung"
    assert "--hang-timeout" in row["error"]
    assert "where_it_waits" in (tmp_path / "stderr.txt").read_text()
    assert all(ended(int(pid), 0.5) for pid in (tmp_path / "pids").read_text().split())


def test_signs_of_life_keep_a_slow_cell_alive(cell: Cell, body: Body, tmp_path: Path) -> None:
    body('for _ in range(8):\n    print(\'{"event": "alive"}\', flush=True)\n    time.sleep(0.25)\nsys.exit(7)')
    seen = run(cell, tmp_path, hang_seconds=1.0)
    assert len(seen) == 8
    assert row_of(tmp_path)["status"] == "failed"
    assert "exit status 7" in row_of(tmp_path)["error"]


def test_a_cell_that_takes_too_long(cell: Cell, body: Body, tmp_path: Path) -> None:
    body('while True:\n    print(\'{"event": "alive"}\', flush=True)\n    time.sleep(0.1)')
    run(cell, tmp_path, cell_seconds=1.0)
    assert row_of(tmp_path)["status"] == "timeout"


def test_a_cell_that_ignores_the_polite_signal_is_killed(cell: Cell, body: Body, tmp_path: Path) -> None:
    body("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SPAWN + "time.sleep(300)")
    started = time.monotonic()
    run(cell, tmp_path, cell_seconds=1.0)
    assert time.monotonic() - started < 1.0 + 5.0
    assert all(ended(int(pid), 0.5) for pid in (tmp_path / "pids").read_text().split())


def test_memory_of_a_child_counts(cell: Cell, body: Body, tmp_path: Path) -> None:
    body("subprocess.run([sys.executable, '-c', 'x = bytearray(400 << 20); import time; time.sleep(300)'])")
    run(cell, tmp_path, memory_bytes=300 << 20)
    row = row_of(tmp_path)
    assert row["status"] == "oom-host"
    assert "--memory-limit" in row["error"]


def test_a_stop_is_an_interruption(cell: Cell, body: Body, tmp_path: Path) -> None:
    body(SPAWN + "time.sleep(300)")
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    run(cell, tmp_path, stop)
    assert row_of(tmp_path)["status"] == "interrupted"
    assert all(ended(int(pid), 0.5) for pid in (tmp_path / "pids").read_text().split())


def test_what_a_cell_left_running_ends_with_it(cell: Cell, body: Body, tmp_path: Path) -> None:
    body("near = subprocess.Popen(['sleep', '300'])\nopen(os.path.join(folder, 'pids'), 'w').write(str(near.pid))")
    run(cell, tmp_path)
    assert ended(int((tmp_path / "pids").read_text()), 0.5)


@pytest.mark.parametrize("module", ["supervisor.start_interpreter", "fork_server.start"])
def test_a_parent_killed_takes_everything_along(cell: Cell, module: str, tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text(cell.to_json())
    near_only = "\n".join(line for line in SPAWN.splitlines() if "far =" not in line).replace(" {far.pid}", "")
    (tmp_path / "body.py").write_text(near_only + "\ntime.sleep(300)")
    parent = f"""
import threading
from pathlib import Path
from bench.launch import fork_server, supervisor
from bench.config.cells import Cell
supervisor.WORKER = "tests.launch.stand_in"
cell = Cell.from_json(Path({str(tmp_path / "cell.json")!r}).read_text())
supervisor.run_cell_process(cell, Path({str(tmp_path)!r}), lambda _: print("up", flush=True), supervisor.Limits(),
    threading.Event(), start={module})
"""
    root = str(Path(supervisor.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": root}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    helpers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert all(psutil.pid_exists(pid) for pid in pids)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert all(ended(pid) for pid in pids)
    assert all(ended(pid, 30.0) for pid in helpers)  # the server first imports to the end


def test_a_cell_knows_when_its_process_was_asked_for(cell: Cell, body: Body, tmp_path: Path) -> None:
    before = time.monotonic()
    body('print(\'{"event": "step", "requested": %r}\' % requested)')
    (event,) = run(cell, tmp_path)
    assert before <= event["requested"] <= time.monotonic()


def test_other_output_is_not_taken_for_events(cell: Cell, body: Body, tmp_path: Path) -> None:
    body("print('noise')\nprint('[1, 2]')\nos.write(1, b'\\xff\\n')\nprint(json := '{\"event\": \"step\"}')")
    assert run(cell, tmp_path) == [json.loads('{"event": "step"}')]
