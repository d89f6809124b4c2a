"""What a run does when the ground is taken from under it: one clear line, and what is finished stays."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bench.cell.run_cell import run_cell
from bench.records import run_folder
from bench.records.record import read_record
from bench.utils.errors import UserError
from tests.helpers import call
from tests.tiny import begun_run, cell_of, two_cells

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(two_cells(model_folders)))
    return path


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a file system in memory; options as of mount(8)."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
        if done.returncode != 0:
            pytest.skip(f"may not mount here: {done.stderr.decode().strip()}")
        mounted.append(place)
        return place

    try:
        yield make
    finally:
        for place in mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run_bench.py"), "run", "--config", str(recipe), "--out", str(out)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def after_first_cell(process: subprocess.Popen[str], do: Callable[[], Any]) -> tuple[int, str]:
    """Does something while the second cell is about to run; gives exit status and what was said from then on."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[2/2]"):
            break
    do()
    said = process.stderr.read()
    return process.wait(timeout=120), said


def fill(disk: Path) -> None:
    """Leaves not one block free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


@pytest.mark.slow
def test_a_full_disk(
    recipe: Path,
    finished_run: Path,
    mount: Callable[..., Path],
    cells_in_this_process: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    disk = mount("size=8m")
    out = begun_run(finished_run, disk / "run")
    status, said = after_first_cell(start(recipe, out), lambda: fill(disk))
    assert status == 1
    assert "No space left on device" in said
    assert "Traceback" not in said
    first, second = (next(out.glob(f"cells/{name}*")) for name in ("frozen", "iisan-cached"))
    assert read_record(first)["row"]["status"] == "ok"
    assert not (second / "record.json").exists()
    stamp = (first / "record.json").stat().st_mtime_ns
    (disk / "filler").unlink()
    capfd.readouterr()
    assert call("run", "--config", str(recipe), "--out", str(out)) == 0
    assert capfd.readouterr().err.count("kept from an earlier run") == 1
    assert (first / "record.json").stat().st_mtime_ns == stamp
    assert read_record(second)["row"]["status"] == "ok"


@pytest.mark.slow
def test_a_folder_that_vanishes(recipe: Path, finished_run: Path, tmp_path: Path) -> None:
    out = begun_run(finished_run, tmp_path / "run")
    status, said = after_first_cell(start(recipe, out), lambda: shutil.rmtree(out))
    assert status == 1
    assert "no longer exists" in said or "No such file" in said
    assert str(out) in said
    assert "Traceback" not in said
    assert not out.exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(recipe: Path, mount: Callable[..., Path]) -> None:
    process = start(recipe, mount("ro") / "run")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "Read-only file system" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="takes a user who may become another one")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(UserError, match=r"Permission denied"), run_folder.locked(tmp_path / "run"):
            pass
    finally:
        os.seteuid(0)


@pytest.mark.usefixtures("no_plan")
def test_a_clock_that_goes_backwards(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(hours)))
    record = run_cell(cell_of("frozen", model_folders), tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok"
    seconds = {key: value for key, value in record["row"].items() if "seconds" in key and value is not None}
    assert len(seconds) >= 4
    assert all(0 < value < 600 for value in seconds.values())
