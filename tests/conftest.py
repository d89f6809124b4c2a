"""One thread per process, a cache of the test run's own, and tiny encoders in folders that all workers share."""

import fcntl
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# Both are read when a library is imported, numpy and torch or the hub's, which nothing above does; processes that tests
# start inherit them.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

Once = Callable[[str, Callable[[Path], object]], Path]
CellRecord = Callable[[str], tuple[dict[str, Any], Path]]
FEW_NEW_ITEMS = 90
"""Number of new items that are probed for attributes, where a test does not look at what the probes find."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Number of workers of ``-n auto``: one per usable core, at most eight."""
    return min(len(os.sched_getaffinity(0)), 8)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that all workers of this run of pytest use."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def once(shared_folder: Path) -> Once:
    """Gives the folder of a name; the first worker that asks for the folder fills it, the others wait.

    The content must not be changed by a test.
    """

    filled: set[str] = set()

    def folder_of(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = shared_folder / "shared" / name, shared_folder / "shared" / f"{name}.done"
        if name not in filled:
            folder.mkdir(parents=True, exist_ok=True)
            with done.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not done.exists():
                    fill(folder)
                    done.touch()
            filled.add(name)
        return folder

    return folder_of


@pytest.fixture(autouse=True)
def own_cache(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of this run of pytest instead of the user's."""
    monkeypatch.setenv("IISAN_BENCH_CACHE_LIMIT", "")
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(shared_folder / "bench-cache"))


@pytest.fixture(autouse=True)
def calls_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden-state caches are built in this process instead of fresh ones, which import for four seconds each."""

    def call(function: Callable[..., Any], *arguments: Any, progress: Callable[..., Any]) -> Any:
        return function(*arguments, progress)

    monkeypatch.setattr("bench.utils.fresh_process.call", call)


@pytest.fixture(autouse=True)
def no_methods_of_other_tests() -> Iterator[None]:
    yield
    if "methods.registry" in sys.modules:
        sys.modules["methods.registry"].FROM_FILES.clear()


@pytest.fixture(scope="session")
def model_folders(once: Once) -> dict[str, Path]:
    """Family -> folder with weights, configuration and, for text, a tokenizer."""
    from tests import tiny

    return {name: once(f"models/{name}", partial(tiny.save, name)) for name in tiny.FAMILIES}


@pytest.fixture(scope="session")
def family_folder(once: Once) -> Callable[[str], Path]:
    """Gives the folder of a family of ``tests.zoo``, made when it is first asked for."""
    from tests import zoo

    return lambda family: once(f"families/{family}", partial(zoo.save, family))


@pytest.fixture
def no_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells that run in this process make no plan and probe few new items; both take longer than a tiny cell."""
    monkeypatch.setattr("bench.cell.run_cell.plan_beside", lambda *_: None)
    monkeypatch.setattr("bench.data.datasets.NEW_ITEMS", FEW_NEW_ITEMS)


@pytest.fixture(scope="session")
def cell_record(once: Once, model_folders: dict[str, Path]) -> CellRecord:
    """Method -> record and folder of its cell of ``tests.tiny.matrix``, run once, in one of the workers' processes."""
    from bench.cell import failure
    from bench.cell.run_cell import run_cell
    from tests.tiny import cell_of

    def run(name: str, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bench.cell.run_cell.plan_beside", failure.plan_beside)
            patch.setattr("bench.data.datasets.NEW_ITEMS", FEW_NEW_ITEMS)
            record = run_cell(cell_of(name, model_folders), folder / "cell", lambda _: None)
        (folder / "record.pickle").write_bytes(pickle.dumps(record))

    def recorded(name: str) -> tuple[dict[str, Any], Path]:
        folder = once(f"records/{name}", partial(run, name))
        return pickle.loads((folder / "record.pickle").read_bytes()), folder / "cell"

    return recorded


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of the time of a report."""
    monkeypatch.setattr("reports.build.draw", lambda *_: [])


@pytest.fixture
def cells_in_this_process(monkeypatch: pytest.MonkeyPatch, no_plan: None) -> None:
    """Commands run cells in this process instead of fresh ones, which import for four seconds each."""
    from bench.cell.run_cell import run_cell

    monkeypatch.setattr(
        "bench.launch.local.run_cell_process", lambda cell, folder, report, *_: run_cell(cell, folder, report)
    )


@pytest.fixture(scope="session")
def finished_run(once: Once, model_folders: dict[str, Path]) -> Path:
    """Run folder of ``tests.tiny.two_cells`` as the command leaves it; each cell ran in a process of its own."""
    import tomli_w

    from tests.tiny import two_cells

    def run(folder: Path) -> None:
        (folder / "mine.toml").write_text(tomli_w.dumps(two_cells(model_folders)))
        program = Path(__file__).parents[1] / "run_bench.py"
        command = [sys.executable, str(program), "run", "--config", "mine.toml", "--out", "run"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr

    return once("finished", run) / "run"
