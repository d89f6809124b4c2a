"""The command as a whole: what it prints, its exit status, and that it looks at this machine and not at another."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.commands.doctor import command, examine
from bench.commands.doctor.examine import torch_devices
from bench.commands.doctor.finding import Finding, gib, ok
from bench.utils.errors import UserError
from tests.data.small_amazon import write_amazon

FINE = ok("disk", "large")
DOUBTFUL = Finding("load", "warning", "somebody\x1b[2J is here", "slower", "ps")
BAD = Finding("threads", "wrong", "9 on 2", "far slower", "export OMP_NUM_THREADS=2")
HOST_CHECKS = ["cpu governor", "cpu load", "cpu limit", "memory", "memory limit", "swap", "threads"]
STORAGE_CHECKS = ["cache disk", "run disk", "hub"]
SOFTWARE_CHECKS = ["python", "torch", "transformers", "peft"]
FLAG_CHECKS = ["tf32", "cudnn.benchmark", "deterministic", "cuda variables"]


@pytest.fixture(autouse=True)
def short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "WATCH_SECONDS", 0.01)


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def told(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(examine, "examine", lambda *_: list(findings))


@pytest.mark.parametrize(("findings", "status"), [([FINE], 0), ([FINE, DOUBTFUL], 0), ([FINE, DOUBTFUL, BAD], 1)])
def test_the_exit_status_is_1_for_what_is_wrong_alone(
    findings: list[Finding], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, *findings)
    assert call() == call("--json") == status
    out, err = capsys.readouterr()
    assert err == ""
    text, _, values = out.partition("\n[")
    assert f"{int(BAD in findings)} wrong, {int(DOUBTFUL in findings)} warning, 1 ok" in text
    listed = json.loads("[" + values)
    assert [entry["level"] for entry in listed] == [finding.level for finding in findings]
    assert all(set(entry) == {"check", "level", "finding", "effect", "mend"} for entry in listed)


def test_the_text_shows_what_mends_and_keeps_the_terminal_safe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told(monkeypatch, FINE, DOUBTFUL, BAD)
    call()
    out = capsys.readouterr().out
    assert "fix:    export OMP_NUM_THREADS=2" in out
    assert "effect: far slower" in out
    assert "\x1b" not in out


def test_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status = call("--device", "cpu", "--out", str(tmp_path / "run"), "--json")
    found = {entry["check"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(found) == ["driver", "device", *HOST_CHECKS, *STORAGE_CHECKS, *SOFTWARE_CHECKS, *FLAG_CHECKS]
    assert status == any(entry["level"] == "wrong" for entry in found.values())
    assert f"torch uses {torch.get_num_threads()} threads" in found["threads"]["finding"]
    assert torch.__version__ in found["torch"]["finding"]
    assert found["device"]["level"] == "ok"
    assert not (tmp_path / "run").exists()
    # The default preset: 128 items and 900 new ones, 7 kept layers of 64, 16 bit, two encoders; pictures of 32 x 32.
    hidden, pictures = 2 * (128 + 900) * 7 * 64 * 2, 128 * 32 * 32 * 3
    assert f"{gib(hidden)} hidden states, {gib(pictures)} pictures" in found["cache disk"]["finding"]


def test_a_dataset_in_files_is_named_by_its_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    titles = {f"B{i:03}": f"soft cotton shirt number {i}" for i in range(30)}
    users = {f"U{u}": [f"B{(u * 7 + k) % 30:03}" for k in range(6)] for u in range(30)}
    folder = str(write_amazon(tmp_path / "data", titles, users))
    models = ("--text-model", "shop-full", "--image-model", "shop-full")
    call("--dataset", "amazon", "--data-dir", folder, *models, "--out", str(tmp_path / "run"), "--json")
    found = {entry["check"]: entry for entry in json.loads(capsys.readouterr().out)}
    # 30 items, 7 kept layers of 64, 16 bit, two encoders.
    assert f"{gib(2 * 30 * 7 * 64 * 2)} hidden states" in found["cache disk"]["finding"]


def test_a_folder_that_cannot_be_written_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert call("--device", "cpu", "--out", str(tmp_path / "file" / "run"), "--json") == 1
    found = {entry["check"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert found["run disk"]["level"] == "wrong"


def test_the_environment_that_is_given_is_the_one_examined(tmp_path: Path) -> None:
    from bench.config.matrix import parse, read_preset

    matrix = parse(read_preset("smoke") | {"device": "cpu"}, "t")
    variables = {"CUDA_LAUNCH_BLOCKING": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "77"}
    found = {finding.check: finding for finding in examine.examine(matrix, tmp_path, variables)}
    assert found["cuda variables"].level == "wrong"
    assert "OMP_NUM_THREADS=77" in found["threads"].finding
    assert "(offline)" in found["hub"].finding


@pytest.mark.slow
def test_too_many_threads_are_found_in_a_fresh_process(tmp_path: Path) -> None:
    """The whole way: the variable is set, torch obeys it, and the command says that it is wrong."""
    cores = len(os.sched_getaffinity(0))
    program = (
        "import argparse, sys; from bench.commands.doctor import command as d, examine as e\n"
        "e.WATCH_SECONDS = 0.01; p = argparse.ArgumentParser(); d.add_arguments(p)\n"
        "sys.exit(d.run(p.parse_args(['--device', 'cpu', '--json'])))\n"
    )
    # Where torch computes with MKL, that would cut the number down to the cores by itself.
    environment = os.environ | {"OMP_NUM_THREADS": str(cores + 3), "MKL_DYNAMIC": "FALSE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    found = {entry["check"]: entry for entry in json.loads(done.stdout)}
    assert found["threads"]["level"] == "wrong"
    assert f"{cores + 3} threads" in found["threads"]["finding"]


def test_a_device_that_cannot_compute_is_found_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    sees = torch_devices("cuda:1")
    assert (sees.devices, sees.error) == (2, "CUDA error: all CUDA-capable devices are busy or unavailable")
    assert torch_devices("cuda:2").error == ""  # it is not there: another finding's business
    assert torch_devices("cpu").error == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--preset", "nobody"], "--preset nobody"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--preset", "amazon"], "--data-dir"),
        (["--device", "gpu"], "--device"),
    ],
)
def test_a_matrix_that_is_none_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        call(*arguments)


def test_nothing_heavy_is_imported_for_the_help() -> None:
    program = "import sys, bench.commands.doctor.command; sys.exit('torch' in sys.modules or 'pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
