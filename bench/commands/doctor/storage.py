"""Checks of the disks for cache and run folder, and of models from the hub."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.commands.doctor.disk_estimate import DiskEstimate, HubModel
from bench.commands.doctor.finding import GIB, Finding, Level, gib, ok, unknown

# Space that should stay free besides the estimate, because other files are written, too.
SPARE_BYTES = GIB
# A run folder takes a few MiB; traces take some hundred.
RUN_BYTES, RUN_COMFORT = 100 * 2**20, GIB
_TRUE = ("1", "ON", "YES", "TRUE")


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest folder above it that exists."""
    return next((candidate for candidate in (folder, *folder.parents) if candidate.exists()), Path("/"))


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may write in a folder that need not exist yet; None if unknown."""
    try:
        disk = os.statvfs(nearest_existing(folder))
    except (OSError, AttributeError):
        return None
    return disk.f_bavail * disk.f_frsize


def cache_disk(folder: Path, free: int | None, writable: bool, need: DiskEstimate) -> Finding:
    """Space on the disk of the cache folder against the estimate for the matrix.

    Args:
        folder: the cache folder.
        free: free bytes on its disk; None if unknown.
        writable: True if files can be created in it.
        need: estimate for the matrix.
    """
    check = "cache disk"
    move = "export IISAN_BENCH_CACHE=/a/folder/on/a/larger/disk"
    effect = "cells that read hidden states from the cache fail"
    if not writable:
        return Finding(check, "wrong", f"{folder} cannot be written", effect, move)
    if free is None:
        return unknown(check, f"the free space of {folder} cannot be read", effect, f"df -h {_quoted(folder)}")
    what = f"{gib(free)} free in {folder}; the matrix needs at most {gib(need.total)}"
    what += f" ({gib(need.hidden)} hidden states, {gib(need.pictures)} pictures)"
    if free < need.total:
        return Finding(check, "wrong", what, effect, move)
    if need.unknown:
        why = f"{what}, and not counted: {'; '.join(need.unknown)}"
        return unknown(check, why, effect, f"df -h {_quoted(folder)}")
    if free < need.total + SPARE_BYTES:
        return Finding(check, "warning", what, f"if other files are written during the run, {effect}", move)
    return ok(check, what)


def run_disk(folder: Path, free: int | None, writable: bool) -> Finding:
    """Space on the disk of the run folder."""
    check, effect = "run disk", "measurements are lost, because their records cannot be written"
    if not writable:
        return Finding(check, "wrong", f"{folder} cannot be written", effect, "python run_bench.py run --out DIR")
    if free is None:
        return unknown(check, f"the free space of {folder} cannot be read", effect, f"df -h {_quoted(folder)}")
    what = f"{gib(free)} free in {folder}"
    if free < RUN_COMFORT:
        level: Level = "wrong" if free < RUN_BYTES else "warning"
        return Finding(check, level, what, effect, "python run_bench.py run --out DIR")
    return ok(check, what)


def hub(models: Sequence[HubModel], cache: Path, readable: bool, variables: Mapping[str, str]) -> Finding:
    """Presence of the encoders from the hub in the local cache; nothing is downloaded and the hub is not contacted.

    Args:
        models: encoders that the matrix names by hub id.
        cache: local cache folder of the hub.
        readable: True if the cache folder, or the nearest existing folder above it, can be read.
        variables: the environment.
    """
    check = "hub"
    offline = any(variables.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    state = "offline" if offline else "online"
    if not models:
        return ok(check, f"no encoder of the matrix comes from the hub ({state})")
    if not readable:
        effect, mend = "no encoder from the hub can be loaded", "export HF_HOME=/a/folder/that/can/be/written"
        return Finding(check, "wrong", f"{cache} cannot be used", effect, mend)
    absent = [model.name for model in models if not model.complete]
    if not absent:
        return ok(check, f"{', '.join(model.name for model in models)}: in {cache} ({state})")
    fetch = "; ".join(f"hf download {shlex.quote(name)}" for name in absent)
    what = f"not in {cache}, or incomplete: {', '.join(absent)}"
    if offline:
        mend = f"unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE; {fetch}"
        return Finding(check, "wrong", f"{what}, and downloads are switched off", "the run is refused", mend)
    effect = "the set-up of the first cell includes the download, or the run is refused"
    return unknown(check, f"{what}; the hub was not contacted", effect, fetch)


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
