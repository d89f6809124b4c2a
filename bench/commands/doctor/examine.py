"""Reads the state of this machine and runs every check of ``doctor`` on it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.commands.doctor import driver, host, software, storage
from bench.commands.doctor.disk_estimate import DiskEstimate, estimate_disk, hub_models
from bench.commands.doctor.driver import TorchDevices
from bench.commands.doctor.finding import Finding
from bench.config.matrix import Matrix
from bench.data.cache.location import cache_dir
from bench.measure import cgroup
from bench.measure.environment import capture
from bench.measure.host import MachineReading, compare, take_snapshot

# CPU times are counted in ticks of about 10 ms; a second is enough for a share in percent.
WATCH_SECONDS = 1.1


def examine(matrix: Matrix, out: Path, variables: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings on this machine for a run of a matrix.

    Args:
        out: run folder, or the nearest known folder above it.
        variables: the environment.
    """
    watched = watch_idle(WATCH_SECONDS)  # first, because the other checks load the machine themselves
    seen = torch_devices(matrix.device)
    models = hub_models(matrix)
    need = estimate_disk(matrix, models)
    return [
        *driver.examine_driver(matrix.device, seen, variables),
        *_host(watched, need, variables),
        *_storage(out, need, models, variables),
        *_software(driver.device_index(matrix.device, seen.devices) is not None, variables),
    ]


def watch_idle(seconds: float) -> MachineReading:
    """Activity of the machine while this process sleeps."""
    before = take_snapshot()
    time.sleep(seconds)
    return compare(before, take_snapshot())


def torch_devices(wanted: str) -> TorchDevices:
    """CUDA devices that torch sees, after a computation on the wanted one, because a listed device may not work.

    The computation also gives this process a CUDA context, so that a driver that lists processes lists this one.

    Args:
        wanted: ``device`` of the matrix: auto, cpu, cuda or cuda:N.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = driver.device_index(wanted, count)
    if index is None or index >= count:
        return TorchDevices(torch.version.cuda, count)
    try:
        properties = torch.cuda.get_device_properties(index)
        torch.zeros(1, device=f"cuda:{index}").add_(1).item()
    except RuntimeError as error:
        return TorchDevices(torch.version.cuda, count, error=str(error).splitlines()[0])
    return TorchDevices(torch.version.cuda, count, str(properties.uuid), properties.name)


def _host(watched: MachineReading, need: DiskEstimate, variables: Mapping[str, str]) -> list[Finding]:
    cores = host.read_cores(psutil.cpu_count(logical=False))
    total, limit = psutil.virtual_memory().total, cgroup.memory_limit()
    available = psutil.virtual_memory().available
    swap = psutil.swap_memory()
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return [
        host.governor(),
        host.load(watched.others_share, average, psutil.cpu_count()),
        host.cpu_limit(cores, cgroup.throttled_seconds()),
        host.memory(available if limit is None else min(available, limit), need.total),
        host.memory_limit(limit, host.control_groups_readable(), total),
        host.swap(swap.total, swap.used, watched),
        host.threads(torch.get_num_threads(), cores, variables),
    ]


def _storage(out: Path, need: DiskEstimate, models: list[Any], variables: Mapping[str, str]) -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache, hub = cache_dir(), Path(HF_HUB_CACHE)
    return [
        storage.cache_disk(cache, storage.free_bytes(cache), _writable(cache), need),
        storage.run_disk(out, storage.free_bytes(out), _writable(out)),
        storage.hub(models, hub, os.access(storage.nearest_existing(hub), os.R_OK), variables),
    ]


def _writable(folder: Path) -> bool:
    existing = storage.nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _software(on_gpu: bool, variables: Mapping[str, str]) -> list[Finding]:
    flags: Any = capture("cpu")["precision_flags"]
    return [
        *software.versions(software.installed_versions(), software.read_ranges()),
        software.tf32(flags, variables),
        software.cudnn_benchmark(flags),
        software.deterministic(flags, variables, on_gpu),
        software.cuda_variables(variables),
    ]
