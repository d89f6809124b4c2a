"""The process of a cell: it dies with its parent, its children with it, and tells its stacks when asked."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.tiny import cell_of

ROOT = Path(__file__).parents[2]
# Starts a cell as a launcher does, hands its output on, and has no mercy to give: it will be killed.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-m", "bench.launch.worker", *sys.argv[2:]], stdin=subprocess.PIPE,
    stderr=open(sys.argv[3] + ".err", "w"), start_new_session=True,
    env=os.environ | {"IISAN_BENCH_PARENT": "1", "PYTHONPATH": sys.argv[1]})
child.wait()
"""
# Imported by the cell's interpreter before anything else: a child that the cell would leave behind.
GRANDCHILD = """
import os, subprocess
if "IISAN_BENCH_PARENT" in os.environ:
    child = subprocess.Popen(["sleep", "300"])
    print('{"event": "pids", "pids": [%d, %d]}' % (os.getpid(), child.pid), flush=True)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def ended(pids: list[int]) -> Iterator[None]:
    """Leaves nothing behind, whatever the test finds."""
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["pids", "step"])
@pytest.mark.slow
def test_it_dies_with_its_parent(moment: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text(GRANDCHILD)
    (tmp_path / "cell.json").write_text(
        cell_of("frozen", model_folders, budget={"seconds": 600, "batch_size": 16}).to_json()
    )
    paths = os.pathsep.join((str(tmp_path / "path"), str(ROOT)))
    command = [sys.executable, "-c", PARENT, paths, str(tmp_path / "cell.json"), str(tmp_path / "cell")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids: list[int] = []
        with ended(pids):
            for line in parent.stdout:
                event = json.loads(line)
                pids += event.get("pids", [])
                if event["event"] == moment:
                    break
            assert not any(gone(pid) for pid in pids)
            parent.kill()
            deadline = time.monotonic() + 5
            while not all(gone(pid) for pid in pids) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(pids) == 2
            assert all(gone(pid) for pid in pids)
    assert not (tmp_path / "cell" / "record.json").exists()


@pytest.mark.slow
def test_it_tells_its_stacks_and_goes_on(model_folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cell.json").write_text(
        cell_of("frozen", model_folders, budget={"epochs": 1, "batch_size": 16}).to_json()
    )
    command = [sys.executable, "-m", "bench.launch.worker", str(tmp_path / "cell.json"), str(tmp_path / "cell")]
    with (
        (tmp_path / "stderr.txt").open("w") as errors,
        # Nobody's child: the end of its input says nothing to it.
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line).get("phase") == "sanity checks":
                process.send_signal(signal.SIGUSR1)
    assert process.returncode == 0
    assert json.loads((tmp_path / "cell" / "record.json").read_text())["row"]["status"] == "ok"
    stacks = (tmp_path / "stderr.txt").read_text()
    assert "most recent call first" in stacks
    assert "run_cell" in stacks
