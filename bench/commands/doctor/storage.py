"""Disks for cache and run folder, and models from the hub."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.commands.doctor.disk_estimate import HubModel, Need
from bench.commands.doctor.finding import GIB, Finding, Level, gib, ok, unknown

# What should stay free beside the estimate: a full disk fails in other places too.
SPARE_BYTES = GIB
# A run folder takes a few MiB; traces take some hundred.
RUN_BYTES, RUN_COMFORT = 100 * 2**20, GIB
_TRUE = ("1", "ON", "YES", "TRUE")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


def free_bytes(folder: Path) -> int | None:
    """Bytes that this user may write in a folder that need not exist yet; None if the system does not tell."""
    try:
        facts = os.statvfs(existing(folder))
    except (OSError, AttributeError):
        return None
    return facts.f_bavail * facts.f_frsize


def cache_disk(folder: Path, free: int | None, writable: bool, need: Need) -> Finding:
    """Whether what a matrix keeps will fit.

    Args:
        folder: the cache folder.
        free: bytes free there.
        writable: whether files can be made there.
    """
    check = "cache disk"
    move = "export IISAN_BENCH_CACHE=/a/folder/on/a/larger/disk"
    effect = "cells that read hidden states from the cache fail"
    if not writable:
        return Finding(check, "wrong", f"{folder} cannot be written", effect, move)
    if free is None:
        return unknown(check, f"the free space of {folder} cannot be told", effect, f"df -h {_quoted(folder)}")
    what = f"{gib(free)} free in {folder}; the matrix keeps at most {gib(need.total)}"
    what += f" ({gib(need.hidden)} hidden states, {gib(need.pictures)} pictures)"
    if free < need.total:
        return Finding(check, "wrong", what, effect, move)
    if need.unknown:
        why = f"{what}, and not counted: {'; '.join(need.unknown)}"
        return unknown(check, why, effect, f"df -h {_quoted(folder)}")
    if free < need.total + SPARE_BYTES:
        return Finding(check, "warning", what, f"if anything else is written meanwhile, {effect}", move)
    return ok(check, what)


def run_disk(folder: Path, free: int | None, writable: bool) -> Finding:
    """Whether records can be written."""
    check, effect = "run disk", "what was measured cannot be written down"
    if not writable:
        return Finding(check, "wrong", f"{folder} cannot be written", effect, "python run_bench.py run --out DIR")
    if free is None:
        return unknown(check, f"the free space of {folder} cannot be told", effect, f"df -h {_quoted(folder)}")
    what = f"{gib(free)} free in {folder}"
    if free < RUN_COMFORT:
        level: Level = "wrong" if free < RUN_BYTES else "warning"
        return Finding(check, level, what, effect, "python run_bench.py run --out DIR")
    return ok(check, what)


def hub(models: Sequence[HubModel], cache: Path, readable: bool, variables: Mapping[str, str]) -> Finding:
    """Whether the encoders that come from the hub are here. Nothing is fetched and nobody is called.

    Args:
        models: those that a matrix names by hub id.
        cache: the hub's local cache.
        readable: whether it, or the folder that it would be made in, can be read.
    """
    check = "hub"
    offline = any(variables.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    state = "offline" if offline else "online"
    if not models:
        return ok(check, f"no encoder of the matrix comes from the hub ({state})")
    if not readable:
        effect = "no encoder of the hub can be loaded"
        return Finding(
            check, "wrong", f"{cache} cannot be used", effect, "export HF_HOME=/a/folder/that/can/be/written"
        )
    absent = [model.name for model in models if not model.complete]
    if not absent:
        return ok(check, f"{', '.join(model.name for model in models)}: in {cache} ({state})")
    fetch = "; ".join(f"hf download {shlex.quote(name)}" for name in absent)
    what = f"not in {cache}, or not whole: {', '.join(absent)}"
    if offline:
        mend = f"unset HF_HUB_OFFLINE TRANSFORMERS_OFFLINE; {fetch}"
        return Finding(check, "wrong", f"{what}, and fetching is switched off", "the run is refused", mend)
    effect = "the first cell's set-up includes the download, or the run is refused"
    return unknown(check, f"{what}; whether the hub answers was not tried", effect, fetch)


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
