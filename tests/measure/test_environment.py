"""The captured environment against what the system, git and the modules say themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import peft
import psutil
import pytest
import torch
import transformers

from bench.measure.environment import capture, cpu_model, git_state


def git(folder: Path, *args: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *identity, *args]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "program.py").write_text("x = 1\n")
    git(tmp_path, "add", "program.py")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_it_says_what_the_modules_and_the_system_say() -> None:
    found = capture("cpu")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    assert found["transformers"] == transformers.__version__
    assert found["peft"] == peft.__version__
    assert found["numpy"] == numpy.__version__
    assert found["cores"] == os.cpu_count()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["threads"] == torch.get_num_threads()
    assert found["affinity"] == sorted(os.sched_getaffinity(0))
    assert (found["device"], found["gpu"]) == ("cpu", None)
    assert json.loads(json.dumps(found)) == found


def test_flags_and_variables_are_those_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("SECRET_TOKEN", "do not keep")
    monkeypatch.setenv("MY_PYTORCH_KEY", "do not keep")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = capture("cpu")
    finally:
        torch.set_float32_matmul_precision(before)
    variables, flags = found["variables"], found["precision_flags"]
    assert isinstance(variables, dict)
    assert isinstance(flags, dict)
    assert flags["float32_matmul_precision"] == "high"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert variables["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert variables["CUDA_VISIBLE_DEVICES"] == ""
    assert "do not keep" not in str(found)


def test_flags_that_torch_refuses_to_tell_are_unknown() -> None:
    program = (
        "import torch; from bench.measure.environment import capture\n"
        "torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "flags = capture('cpu')['precision_flags']\n"
        "assert flags['cuda_matmul_tf32'] is None and flags['cudnn_tf32'] is True, flags\n"
    )
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has the older settings alone")
    subprocess.run([sys.executable, "-c", program], check=True)


def test_git_revision_and_dirt(checkout: Path) -> None:
    program = checkout / "program.py"
    assert git_state(program) == (git(checkout, "rev-parse", "HEAD"), False)
    program.write_text("x = 2\n")
    assert git_state(program) == (git(checkout, "rev-parse", "HEAD"), True)


def test_git_is_asked_about_the_folder_and_not_about_a_hooks_repository(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_state(checkout / "program.py")[0] == git(checkout, "rev-parse", "HEAD")


def test_an_installed_copy_inside_somebody_elses_checkout_has_no_revision(checkout: Path) -> None:
    copy = checkout / "venv" / "program.py"
    copy.parent.mkdir()
    copy.write_text("x = 1\n")
    assert git_state(copy) == (None, None)


def test_no_checkout_no_commit_and_no_git_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program.py"
    program.write_text("x = 1\n")
    assert git_state(program) == (None, None)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "program.py")
    assert git_state(program) == (None, None)
    monkeypatch.setenv("PATH", "")
    assert git_state(program) == (None, None)


def test_the_name_of_the_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Made-up CPU @ 2 GHz\nmodel name\t: Made-up CPU\n")
    assert cpu_model(tmp_path / "cpuinfo") == "Made-up CPU @ 2 GHz"


def test_importing_it_needs_no_torch() -> None:
    program = "import sys, bench.measure.environment; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.gpu
def test_a_real_card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    gpu = capture("cuda:0")["gpu"]
    assert isinstance(gpu, dict)
    assert gpu["name"] == torch.cuda.get_device_name(0)
    assert gpu["memory_bytes"] == torch.cuda.mem_get_info(0)[1]
    assert gpu["cuda"] == torch.version.cuda
