"""Checks of package versions, flags of torch, and environment variables that change how a run computes."""

from __future__ import annotations

import platform
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet

from bench.commands.doctor.finding import Finding, ok, unknown

PROJECT_FILE = Path(__file__).parents[3] / "pyproject.toml"
DISTRIBUTION = "iisan-bench"
PACKAGES = ("torch", "transformers", "peft")
# Variable -> harmful value, and its effect.
_HARMFUL = {
    "CUDA_LAUNCH_BLOCKING": ("1", "the program waits for every kernel: all times on a GPU are too long"),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("1", "every allocation goes to the driver: steps are far slower"),
}
_VERSION_EFFECT = "untested with this version: what is measured may differ from what the report states"


def read_ranges(project: Path = PROJECT_FILE, distribution: str = DISTRIBUTION) -> dict[str, SpecifierSet]:
    """Package (or "python") -> supported versions.

    Read from the checkout's pyproject.toml, otherwise from the installed distribution; empty if neither can be read.
    """
    try:
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        python, lines = table["requires-python"], list(table["dependencies"])
    except (OSError, tomllib.TOMLDecodeError, KeyError):
        try:
            python = metadata.metadata(distribution)["Requires-Python"]
            lines = metadata.requires(distribution) or []
        except (metadata.PackageNotFoundError, KeyError):
            return {}
    ranges = {"python": SpecifierSet(python or "")}
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        ranges.setdefault(requirement.name, requirement.specifier)
    return ranges


def installed_versions() -> dict[str, str | None]:
    """Package (or "python") -> installed version; None for a package that is not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            installed[package] = None
    return installed


def versions(installed: Mapping[str, str | None], ranges: Mapping[str, SpecifierSet]) -> list[Finding]:
    """One finding per package: the installed version against the supported versions."""
    return [_version(package, version, ranges.get(package)) for package, version in installed.items()]


def _version(package: str, version: str | None, supported: SpecifierSet | None) -> Finding:
    if version is None:
        return Finding(package, "wrong", "not installed", "no cell can run without it", f"pip install {package}")
    if supported is None:
        why = f"{version}, but the supported versions cannot be read"
        return unknown(package, why, _VERSION_EFFECT, f"pip show {package}")
    if supported.contains(version, prereleases=True):
        return ok(package, f"{version}{f' ({supported})' if str(supported) else ''}")
    mend = "python3.11 -m venv .venv" if package == "python" else f"pip install '{package}{supported}'"
    return Finding(package, "wrong", f"{version}, supported is {supported}", _VERSION_EFFECT, mend)


def tf32(flags: Mapping[str, Any], variables: Mapping[str, str]) -> Finding:
    """TF32, which computes 32-bit matrix products on a GPU with fewer bits.

    Args:
        flags: ``precision_flags`` of :func:`bench.measure.environment.capture`; None is a flag that torch cannot read.
        variables: the environment.
    """
    check = "tf32"
    effect = "fp32 products on a GPU have 10 bits of mantissa and are several times faster: compare only like with like"
    override = variables.get("NVIDIA_TF32_OVERRIDE")
    if override is not None:
        what = f"NVIDIA_TF32_OVERRIDE={override} overrides every setting of torch"
        return Finding(check, "warning", what, effect, "unset NVIDIA_TF32_OVERRIDE")
    name = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"
    if variables.get(name, "0") not in ("", "0"):
        return Finding(check, "warning", f"{name}={variables[name]}", effect, f"unset {name}")
    matmul, precision = flags["cuda_matmul_tf32"], flags["float32_matmul_precision"]
    if matmul is None or precision is None:
        look = "python -c 'import torch; print(torch.backends.cuda.matmul.fp32_precision)'"
        return unknown(check, "torch does not report it", effect, look)
    if matmul or precision != "highest":
        return Finding(check, "warning", f"on for products (precision {precision})", effect, _show_startup_code())
    convolutions = {True: "on", False: "off", None: "unknown"}[flags["cudnn_tf32"]]
    return ok(check, f"off for products, {convolutions} for convolutions (torch's default is on)")


def cudnn_benchmark(flags: Mapping[str, Any]) -> Finding:
    """cuDNN benchmark mode, which chooses kernels by their measured speed."""
    if not flags["cudnn_benchmark"]:
        return ok("cudnn.benchmark", "off")
    effect = "kernels are chosen by a speed test at their first use: times and memory differ between processes"
    return Finding("cudnn.benchmark", "warning", "on", effect, _show_startup_code())


def deterministic(flags: Mapping[str, Any], variables: Mapping[str, str], on_gpu: bool) -> Finding:
    """Flags that restrict torch to deterministic kernels."""
    check = "deterministic"
    switched_on = [name for name in ("deterministic_algorithms", "cudnn_deterministic") if flags[name]]
    if not switched_on:
        return ok(check, "off")
    what = f"on: {', '.join(switched_on)}"
    if on_gpu and flags["deterministic_algorithms"] and "CUBLAS_WORKSPACE_CONFIG" not in variables:
        effect = "torch refuses matrix products on a GPU without CUBLAS_WORKSPACE_CONFIG: every cell fails"
        return Finding(check, "wrong", what, effect, "export CUBLAS_WORKSPACE_CONFIG=:4096:8")
    effect = "slower kernels replace faster ones: compare only with runs in the same setting"
    return Finding(check, "warning", what, effect, _show_startup_code())


def cuda_variables(variables: Mapping[str, str]) -> Finding:
    """Environment variables that slow down or change the use of CUDA."""
    for name, (harmful, effect) in _HARMFUL.items():
        if variables.get(name) == harmful:
            return Finding("cuda variables", "wrong", f"{name}={harmful}", effect, f"unset {name}")
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        if name in variables:
            effect = "torch reserves memory in another way: reserved bytes cannot be compared with other runs"
            return Finding("cuda variables", "warning", f"{name}={variables[name]}", effect, f"unset {name}")
    return ok("cuda variables", "none that slow a run down")


def _show_startup_code() -> str:
    """Command that shows the code which every start of Python runs; nothing in this program sets the flags."""
    return "python -c 'import sitecustomize; print(sitecustomize.__file__)'"
