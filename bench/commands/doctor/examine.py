"""Reads this machine and runs every check on what it found."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.commands.doctor import driver, host, software, storage
from bench.commands.doctor.disk_estimate import Need, hub_models, need_of
from bench.commands.doctor.driver import TorchSees
from bench.commands.doctor.finding import Finding
from bench.config.matrix import Matrix
from bench.data.cache.location import cache_dir
from bench.measure import cgroup
from bench.measure.environment import capture
from bench.measure.host import MachineReading, compare, take_snapshot

# CPU times come in ticks: a second of them is enough to tell a share.
WATCH_SECONDS = 1.1


def examine(matrix: Matrix, out: Path, variables: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings about the machine for a run of a matrix.

    Args:
        out: where the run folder will be.
        variables: the environment.
    """
    watched = watch(WATCH_SECONDS)  # first: what is looked at afterwards is work of our own
    given = dict(variables)
    sees = torch_sees(matrix.device)
    models = hub_models(matrix)
    need = need_of(matrix, models)
    return [
        *driver.examine_driver(matrix.device, sees, given),
        *_host(watched, need, given),
        *_storage(out, need, models, given),
        *_software(driver.device_index(matrix.device, sees.devices) is not None, given),
    ]


def watch(seconds: float) -> MachineReading:
    """What the machine does while this process does nothing."""
    before = take_snapshot()
    time.sleep(seconds)
    return compare(before, take_snapshot())


def torch_sees(wanted: str) -> TorchSees:
    """Asks torch, and computes something on the device that is wanted: what is listed need not work.

    That also gives this process a CUDA context, so that a driver that lists processes lists this one.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = driver.device_index(wanted, count)
    if index is None or index >= count:
        return TorchSees(torch.version.cuda, count)
    try:
        facts = torch.cuda.get_device_properties(index)
        torch.zeros(1, device=f"cuda:{index}").add_(1).item()
    except RuntimeError as error:
        return TorchSees(torch.version.cuda, count, error=str(error).splitlines()[0])
    return TorchSees(torch.version.cuda, count, str(facts.uuid), facts.name)


def _host(watched: MachineReading, need: Need, variables: Mapping[str, str]) -> list[Finding]:
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
        host.memory_limit(limit, host.groups_known(), total),
        host.swap(swap.total, swap.used, watched),
        host.threads(torch.get_num_threads(), cores, variables),
    ]


def _storage(out: Path, need: Need, models: list[Any], variables: Mapping[str, str]) -> list[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache, hub = cache_dir(), Path(HF_HUB_CACHE)
    return [
        storage.cache_disk(cache, storage.free_bytes(cache), _writable(cache), need),
        storage.run_disk(out, storage.free_bytes(out), _writable(out)),
        storage.hub(models, hub, os.access(storage.existing(hub), os.R_OK), variables),
    ]


def _writable(folder: Path) -> bool:
    place = storage.existing(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _software(on_gpu: bool, variables: Mapping[str, str]) -> list[Finding]:
    flags: Any = capture("cpu")["precision_flags"]
    return [
        *software.versions(software.installed_versions(), software.read_ranges()),
        software.tf32(flags, variables),
        software.cudnn_benchmark(flags),
        software.deterministic(flags, variables, on_gpu),
        software.cuda_variables(variables),
    ]
