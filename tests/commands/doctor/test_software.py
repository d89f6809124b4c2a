"""Versions, flags and variables: every check in each of its levels."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from bench.commands.doctor import software
from tests.commands.doctor.levels import level_of

FLAGS: dict[str, Any] = {
    "float32_matmul_precision": "highest",
    "cuda_matmul_tf32": False,
    "cudnn_tf32": True,
    "cudnn_benchmark": False,
    "cudnn_deterministic": False,
    "deterministic_algorithms": False,
}


@pytest.mark.parametrize(
    ("version", "supported", "level", "mend"),
    [
        ("2.13.0+cpu", ">=2.8,<2.14", "ok", ""),
        ("2.13.0rc1", ">=2.8,<2.14", "ok", ""),
        ("2.14.0.dev20260101", ">=2.8,<2.14", "wrong", "pip install 'torch<2.14,>=2.8'"),
        ("2.14.0", ">=2.8,<2.14", "wrong", "pip install 'torch<2.14,>=2.8'"),
        ("2.7.1", ">=2.8,<2.14", "wrong", "pip install 'torch<2.14,>=2.8'"),
        (None, ">=2.8", "wrong", "pip install torch"),
        ("2.13.0", None, "unknown", "pip show torch"),
    ],
)
def test_a_version(version: str | None, supported: str | None, level: str, mend: str) -> None:
    ranges = {} if supported is None else {"torch": SpecifierSet(supported)}
    (found,) = software.versions({"torch": version}, ranges)
    assert (found.check, level_of(found), found.mend) == ("torch", level, mend)


def test_python_is_held_to_its_range() -> None:
    ranges = {"python": SpecifierSet(">=3.11")}
    assert level_of(software.versions({"python": "3.11.7"}, ranges)[0]) == "ok"
    assert level_of(software.versions({"python": "3.10.2"}, ranges)[0]) == "wrong"


def test_the_ranges_are_those_of_the_project_file(tmp_path: Path) -> None:
    ranges = software.read_ranges()
    table = tomllib.loads(software.PROJECT_FILE.read_text())["project"]
    assert ranges["python"] == SpecifierSet(table["requires-python"])
    for package in ("torch", "transformers", "peft"):
        (line,) = (line for line in table["dependencies"] if line.startswith(f"{package}>"))
        assert ranges[package] == SpecifierSet(line.removeprefix(package))
    # The environment that the tests run in is a supported one.
    assert {level_of(f) for f in software.versions(software.installed_versions(), ranges)} == {"ok"}


def test_an_installed_copy_reads_its_distribution_and_none_at_all_is_unknown(tmp_path: Path) -> None:
    elsewhere = tmp_path / "pyproject.toml"
    found = software.read_ranges(elsewhere, "transformers")
    assert "huggingface-hub" in found
    assert "python" in found
    assert software.read_ranges(elsewhere, "no-such-distribution") == {}
    elsewhere.write_text("not toml [")
    assert software.read_ranges(elsewhere, "no-such-distribution") == {}


@pytest.mark.parametrize(
    ("flags", "variables", "level"),
    [
        ({}, {}, "ok"),
        ({"cuda_matmul_tf32": True}, {}, "warning"),
        ({"float32_matmul_precision": "high"}, {}, "warning"),
        ({}, {"NVIDIA_TF32_OVERRIDE": "0"}, "warning"),
        ({}, {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "warning"),
        ({}, {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0"}, "ok"),
        ({"cuda_matmul_tf32": None}, {}, "unknown"),
    ],
)
def test_tf32(flags: dict[str, Any], variables: dict[str, str], level: str) -> None:
    assert level_of(software.tf32(FLAGS | flags, variables)) == level


def test_cudnn_benchmark() -> None:
    assert level_of(software.cudnn_benchmark(FLAGS)) == "ok"
    assert level_of(software.cudnn_benchmark(FLAGS | {"cudnn_benchmark": True})) == "warning"


@pytest.mark.parametrize(
    ("flags", "variables", "on_gpu", "level"),
    [
        ({}, {}, True, "ok"),
        ({"cudnn_deterministic": True}, {}, True, "warning"),
        ({"deterministic_algorithms": True}, {}, False, "warning"),
        ({"deterministic_algorithms": True}, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, True, "warning"),
        ({"deterministic_algorithms": True}, {}, True, "wrong"),
    ],
)
def test_deterministic(flags: dict[str, Any], variables: dict[str, str], on_gpu: bool, level: str) -> None:
    assert level_of(software.deterministic(FLAGS | flags, variables, on_gpu)) == level


@pytest.mark.parametrize(
    ("variables", "level", "mend"),
    [
        ({}, "ok", ""),
        ({"CUDA_LAUNCH_BLOCKING": "0"}, "ok", ""),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, "wrong", "unset CUDA_LAUNCH_BLOCKING"),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "wrong", "unset PYTORCH_NO_CUDA_MEMORY_CACHING"),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, "warning", "unset PYTORCH_ALLOC_CONF"),
    ],
)
def test_cuda_variables(variables: dict[str, str], level: str, mend: str) -> None:
    found = software.cuda_variables(variables)
    assert (level_of(found), found.mend) == (level, mend)
