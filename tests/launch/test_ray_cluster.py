"""On a real cluster of two nodes, both on this machine."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
import tomli_w

from bench.cell.run_cell import run_cell
from bench.config.cells import cells
from bench.config.matrix import parse, read_toml
from bench.launch import ray_cluster
from bench.launch.ray_cluster import Place, places
from bench.records.record import cell_folder, read_record
from bench.utils.errors import UserError
from tests.tiny import cell_of, matrix

ROOT = Path(__file__).parents[2]
EXACT = ["hr@10", "ndcg@10", "valid_hr@10", "trainable_params", "peak_memory_bytes", "flops_forward", "flops_backward"]


def test_each_node_is_a_place_or_each_of_its_cards() -> None:
    nodes = [
        {"Alive": True, "NodeID": "a", "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 16.0, "GPU": 2.0}},
        {"Alive": True, "NodeID": "b", "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 8.0}},
        {"Alive": False, "NodeID": "c", "NodeManagerAddress": "10.0.0.3", "Resources": {"CPU": 8.0, "GPU": 1.0}},
    ]
    assert [(p.node, p.cpus, p.gpus) for p in places(nodes, "cpu")] == [("a", 16, 0), ("b", 8, 0)]
    assert [(p.node, p.cpus, p.gpus, p.index) for p in places(nodes, "cuda:0")] == [("a", 8, 1, 0), ("a", 8, 1, 1)]


class Files:
    """Stands in for ray: a task's result is what a cell left, damaged on its way."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def get(self, reference: object) -> dict[str, bytes]:
        return {"record.json": b'{"row": '}


def test_a_cell_whose_files_were_damaged_on_their_way_runs_again(
    model_folders: dict[str, Path], tmp_path: Path
) -> None:
    cell = cell_of("frozen", model_folders)
    cell_folder(tmp_path, cell.cell_id).mkdir(parents=True)
    state, said = ray_cluster.ClusterState([]), []
    for attempt in range(1, ray_cluster.ATTEMPTS + 1):
        state.running["task"] = ray_cluster.Running(cell, Place("a", "10.0.0.1", 1, 0), attempt)
        ray_cluster._collect(Files(), "task", state, tmp_path, lambda cell, event: said.append(event))
        assert [one.cell_id for one in state.waiting] == [cell.cell_id] * min(attempt, ray_cluster.ATTEMPTS - 1)
    assert read_record(cell_folder(tmp_path, cell.cell_id))["row"]["status"] == "failed"
    assert [event["status"] for event in said] == ["failed"]


@dataclass
class Cluster:
    address: str
    folder: str
    environment: dict[str, str]

    def start(self, *options: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", *options]
        command += ["--disable-usage-stats", "--object-store-memory=100000000"]
        subprocess.run(command, check=True, capture_output=True, env=self.environment, timeout=120)

    def raylets(self) -> list[psutil.Process]:
        """The process of each node that runs, the head first."""
        found = [p for p in psutil.process_iter(["name", "cmdline"]) if p.info["name"] == "raylet"]
        return sorted((p for p in found if self.folder in " ".join(p.cmdline())), key=psutil.Process.create_time)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head and a second node, which the last test kills."""
    pytest.importorskip("ray", reason="needs the extra [ray]")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Ray puts sockets below it, whose paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        made = Cluster(f"127.0.0.1:{port}", folder, environment)
        made.start("--head", "--node-ip-address=127.0.0.1", f"--port={port}", "--include-dashboard=false",
                   f"--temp-dir={folder}")  # fmt: skip
        try:
            made.start(f"--address={made.address}")
            assert len(made.raylets()) == 2
            yield made
        finally:
            mine = [p for p in psutil.process_iter(["cmdline"]) if folder in " ".join(p.info["cmdline"] or [])]
            for process in mine:
                process.kill()
            psutil.wait_procs(mine, timeout=10)


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    methods = [{"name": "frozen"}, {"name": "iisan-cached", "bottleneck": 4}, {"name": "lora"}]
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(matrix(model_folders, methods=methods, budget={"steps": 4, "batch_size": 16})))
    return path


def command(recipe: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(ROOT / "run_bench.py"), "run", "--config", str(recipe), "--out", str(out), *more]


def run(recipe: Path, out: Path, environment: dict[str, str], *more: str) -> pd.DataFrame:
    done = subprocess.run(command(recipe, out, *more), capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(out / "results.csv").set_index("method")


@pytest.mark.slow
@pytest.mark.usefixtures("no_plan")
def test_two_nodes_give_what_one_machine_gives(cluster: Cluster, recipe: Path, tmp_path: Path) -> None:
    options = ["--launcher", "ray", "--ray-address", cluster.address, "--cache-dir", str(tmp_path / "cache")]
    away = run(recipe, tmp_path / "ray", cluster.environment, *options)
    # Of two encoders: the states of the catalogue, and those of the new items that are probed for attributes.
    assert len(list((tmp_path / "cache" / "hidden").glob("*.safetensors"))) == 4
    whole = cells(parse(read_toml(recipe), "t"), "cpu")
    rows = {cell.method.name: run_cell(cell, tmp_path / cell.cell_id, lambda _: None)["row"] for cell in whole}
    assert away[EXACT].to_dict("index") == {name: {key: row[key] for key in EXACT} for name, row in rows.items()}
    for path in (tmp_path / "ray" / "cells").glob("*/record.json"):
        assert json.loads(path.read_text())["ran"]["attempts"] == 1
        assert {p.name for p in path.parent.iterdir()} == {"record.json", "steps.csv", "ranks.csv", "stderr.txt"}


@pytest.mark.slow
def test_a_node_killed_in_mid_cell_costs_nothing_finished(cluster: Cluster, recipe: Path, tmp_path: Path) -> None:
    raylet = cluster.raylets()[1]
    out = tmp_path / "run"
    arguments = command(recipe, out, "--launcher", "ray", "--ray-address", cluster.address)
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=cluster.environment)

    def measured_there() -> list[psutil.Process]:
        children = raylet.children(recursive=True)
        return [p for p in children if p.status() != "zombie" and "bench.launch.worker" in " ".join(p.cmdline())]

    end = time.monotonic() + 120
    while not (there := measured_there()):
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.2)
    time.sleep(2)
    finished = {p: p.stat().st_mtime_ns for p in out.glob("cells/*/record.json")}
    workers = raylet.children(recursive=True)
    os.kill(raylet.pid, signal.SIGKILL)
    psutil.wait_procs(workers, timeout=15)
    assert not any(p.is_running() and p.status() != "zombie" for p in there)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait() == 0, said
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    records = [json.loads(p.read_text()) for p in out.glob("cells/*/record.json")]
    assert len(records) == 3
    assert {r["row"]["status"] for r in records} == {"ok"}
    assert sorted(r["ran"]["attempts"] for r in records) == [1, 1, 2]


@pytest.mark.slow
def test_no_cluster_is_one_clear_line(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    arguments = command(recipe, tmp_path / "run", "--launcher", "ray", "--ray-address", "127.0.0.1:1")
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "--ray-address 127.0.0.1:1: no cluster answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.launch.ray_cluster import cluster as connect

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"iisan-bench\[ray\]"), connect("auto"):
        pass
