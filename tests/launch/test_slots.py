"""Places of cells that run at the same time: cards, slices of cards, CPU cores and threads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.config.cells import cells
from bench.config.matrix import parse
from bench.launch import affinity
from bench.launch.local import Launch, run_local, slot_variables
from bench.launch.ray_cluster import Place, cell_variables
from bench.records.record import cell_folder, read_record
from bench.utils.errors import UserError
from tests.tiny import matrix

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Two cards and eight cores with two hyperthreads each."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(affinity, "cores", lambda: [(core, core + 8) for core in range(8)])
    return monkeypatch


def devices(parallel: int) -> list[str]:
    return [own["CUDA_VISIBLE_DEVICES"] for own in slot_variables("cuda:0", parallel)]


def test_each_place_has_a_card(cards: pytest.MonkeyPatch) -> None:
    assert devices(2) == ["0", "1"]
    cards.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert devices(2) == ["3", "GPU-5"]
    assert slot_variables("cuda:0", 1) == [{}]
    with pytest.raises(UserError, match=r"torch sees 2 CUDA devices.*name each in CUDA_VISIBLE_DEVICES"):
        devices(3)
    with pytest.raises(UserError, match="but the device is cuda:1"):
        slot_variables("cuda:1", 2)


def test_each_place_has_a_named_slice(cards: pytest.MonkeyPatch) -> None:
    """CUDA shows one slice to a process, however many are named."""
    cards.setattr("torch.cuda.device_count", lambda: 1)
    cards.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-b,MIG-c,,MIG-d")
    assert devices(3) == ["MIG-a", "MIG-b", "MIG-c"]
    with pytest.raises(UserError, match="torch sees 3"):
        devices(4)
    cards.setenv("CUDA_VISIBLE_DEVICES", "MIG-a,MIG-a")
    with pytest.raises(UserError, match="names a device twice"):
        devices(2)


def test_each_place_has_cores_of_its_own(cards: pytest.MonkeyPatch) -> None:
    for device in ("cuda:0", "cpu"):
        first, second = slot_variables(device, 2)
        assert first["IISAN_BENCH_CPUS"] == "0,8,1,9,2,10,3,11"
        assert second["IISAN_BENCH_CPUS"] == "4,12,5,13,6,14,7,15"
        assert first["OMP_NUM_THREADS"] == second["OMP_NUM_THREADS"] == "4", "a thread per core, not per hyperthread"
    cards.setenv("OMP_NUM_THREADS", "3")
    assert slot_variables("cpu", 2)[0]["OMP_NUM_THREADS"] == "3"
    assert slot_variables("cpu", 9) == [{}] * 9


def test_shares_are_equal() -> None:
    found = [(cpu,) for cpu in range(7)]
    assert affinity.shares(found, 3) == [[(0,), (1,)], [(2,), (3,)], [(4,), (5,)]]
    assert affinity.shares(found, 8) == []


def test_cores_are_read_from_the_kernel(tmp_path: Path) -> None:
    """Two packages with two cores each, whose hyperthreads are numbered after all cores."""
    for cpu in range(8):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{cpu % 2}\n")
        (folder / "core_id").write_text(f"{cpu // 2 % 2}\n")
    assert affinity.cores(frozenset(range(8)), tmp_path) == [(0, 4), (2, 6), (1, 5), (3, 7)]
    assert affinity.cores(frozenset({0, 1, 4}), tmp_path) == [(0, 4), (1,)]
    assert affinity.cores(frozenset({5, 3}), tmp_path / "none") == [(3,), (5,)]
    assert sorted(cpu for core in affinity.cores() for cpu in core) == sorted(os.sched_getaffinity(0))


def test_a_cell_binds_itself_before_anything_else_runs() -> None:
    cpu = max(os.sched_getaffinity(0))
    program = (
        "import os, sys, json; import bench.launch.worker as w; sys.modules['bench.cell.run_cell'] = w; "
        "w.watch_parent = lambda: None; real = w.main; w.main = lambda _: print(json.dumps(["
        "sorted(os.sched_getaffinity(0)), os.environ.get('IISAN_BENCH_CPUS')])); real()"
    )
    environment = os.environ | {"IISAN_BENCH_CPUS": str(cpu), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[cpu], None]


@pytest.mark.skipif(len(affinity.cores()) < 2, reason="needs two cores")
def test_cells_that_run_together_record_different_cores(model_folders: dict[str, Path], tmp_path: Path) -> None:
    budget = {"steps": 1, "batch_size": 16}
    todo = cells(parse(matrix(model_folders, seeds=[0, 1], methods=[{"name": "frozen"}], budget=budget), "t"), "cpu")
    run_local(todo, tmp_path, lambda *_: None, Launch(parallel=2))
    found = []
    for cell in todo:
        environment = read_record(cell_folder(tmp_path, cell.cell_id))["environment"]
        found.append(set(environment["affinity"]))
        assert environment["threads"] <= len(found[-1])
    assert len(found) == 2
    assert not found[0] & found[1]


def test_a_cell_of_ray_has_the_threads_of_a_local_one() -> None:
    node = [(core, core + 8) for core in range(8)]
    alone = Place("a", "10.0.0.1", 16.0, 0)
    assert cell_variables(alone, node, {}) == {"OMP_NUM_THREADS": "8"}, "Ray would set 16"
    assert cell_variables(alone, node, {"OMP_NUM_THREADS": "2"}) == {"OMP_NUM_THREADS": "2"}
    part = Place("a", "10.0.0.1", 4.0, 0)
    assert cell_variables(part, node, {}) == {"OMP_NUM_THREADS": "2"}, "Ray was given a quarter of the node"
    second = Place("a", "10.0.0.1", 8.0, 1, 1, 2)
    assert cell_variables(second, node, {}) == {
        "IISAN_BENCH_CPUS": "4,12,5,13,6,14,7,15",
        "OMP_NUM_THREADS": "4",
    }
    assert cell_variables(Place("a", "10.0.0.1", 1.0, 1, 8, 9), node, {}) == {}


def test_the_environment_that_a_process_was_started_with(tmp_path: Path) -> None:
    program = "import os; os.environ['OMP_NUM_THREADS'] = '9'; from bench.launch.affinity import started_with; "
    program += "print(started_with().get('OMP_NUM_THREADS'))"
    for given, expected in (({}, "None"), ({"OMP_NUM_THREADS": "3"}, "3")):
        environment = (
            {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"} | given | {"PYTHONPATH": str(ROOT)}
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
    assert affinity.started_with(tmp_path / "none") is None
