"""Environment of a measurement: versions, machine, limits, flags, and the git state of the program."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import psutil

from bench.measure import cgroup

PACKAGES = ("torch", "transformers", "peft", "numpy", "nvidia-ml-py", "bitsandbytes", "torchao")
# Environment variables that change speed or memory use and are recorded nowhere else.
VARIABLES = re.compile(
    r"(OMP|MKL|OPENBLAS|NUMEXPR)_NUM_THREADS|OMP_PROC_BIND|OMP_PLACES|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER"
    r"|CUDA_LAUNCH_BLOCKING|CUBLAS_WORKSPACE_CONFIG|NVIDIA_TF32_OVERRIDE|PYTORCH_\w+|MALLOC_ARENA_MAX|LD_PRELOAD"
)


def capture(device: str) -> dict[str, object]:
    """Describe this process and its machine; imports torch, because torch's flags are included.

    Args:
        device: device of the run, such as `cpu` or `cuda:0`.

    Returns:
        A JSON-ready dictionary. `memory_bytes` is the machine's memory, `cgroup_*` are limits of control groups,
        `cores_usable` is the number of cores that the scheduler allows, hyperthreads included, and `affinity` holds
        their numbers. Values that cannot be read are None, and `gpu` is None on the CPU.
    """
    import torch

    revision, dirty = git_state(Path(__file__))
    return {
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": psutil.cpu_count(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_usable": _usable_cores(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "cgroup_cpus": cgroup.cpu_limit(),
        "cgroup_memory_bytes": cgroup.memory_limit(),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "device": device,
        "gpu": _gpu(torch, device),
        "git_revision": revision,
        "git_dirty": dirty,
        "precision_flags": _precision_flags(torch),
        "variables": {name: value for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name)},
    }


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Name of the processor; None if the system does not report it."""
    with suppress(OSError):
        name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.M)
        if name:
            return name[1].strip()
    return platform.processor() or None


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """Git revision of the checkout that tracks `file`, and True if the checkout has uncommitted changes.

    Both values are None if git, the checkout or its first commit is missing. They are also None if an installed copy
    lies inside a checkout that does not track the file.
    """
    folder = file.resolve().parent
    if _git(folder, "ls-files", "--error-unmatch", file.name) is None:
        return None, None
    revision = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return (None, None) if revision is None or changes is None else (revision, bool(changes))


def _git(folder: Path, *args: str) -> str | None:
    # Inside a git hook these variables name another repository and override the folder.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *args],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _precision_flags(torch: Any) -> dict[str, object]:
    backends = torch.backends
    return {
        "float32_matmul_precision": _flag(torch.get_float32_matmul_precision),
        "cuda_matmul_tf32": _flag(lambda: backends.cuda.matmul.allow_tf32),
        "cudnn_tf32": _flag(lambda: backends.cudnn.allow_tf32),
        "cudnn_attention": backends.cuda.cudnn_sdp_enabled(),
        "cudnn_benchmark": backends.cudnn.benchmark,
        "cudnn_deterministic": backends.cudnn.deterministic,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def _flag(read: Callable[[], object]) -> object:
    """Value of a torch flag; None if torch refuses to read it, as it does after the newer settings have been used."""
    try:
        return read()
    except RuntimeError:
        return None


def _gpu(torch: Any, device: str) -> dict[str, object] | None:
    place = torch.device(device)
    if place.type != "cuda" or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(place)
    return {
        "name": properties.name,
        "uuid": str(properties.uuid) if hasattr(properties, "uuid") else None,
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
    }


def _driver() -> str | None:
    try:
        pynvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
