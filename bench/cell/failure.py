"""How a cell ended that did not end ok, and the record of it."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import torch

from bench.cell.planner import planned
from bench.cell.sanity_checks import SanityCheckError
from bench.config.cells import Cell
from bench.measure.host import peak_rss_bytes
from bench.measure.memory import allocator_peaks
from bench.records.record import failure, one_line
from bench.training.loop import Diverged
from bench.utils.errors import UserError

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# As torch says it of a card, and of the host.
REQUESTED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)?) (bytes|[KMGT]iB)")
# Memory of a card that is asked for past torch's allocator, for a context or inside a library.
DEVICE_ALLOCATION = re.compile(r"CUDA error: out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED")
HOST_ALLOCATION = "DefaultCPUAllocator: can't allocate memory"


@dataclass(frozen=True)
class Outcome:
    """What a cell ended with.

    Attributes:
        status: oom, oom-host, diverged or failed.
        error: for the row.
        traceback: of the exception.
        facts: further entries of the record.
    """

    status: str
    error: str
    traceback: str
    facts: dict[str, Any]


def outcome_of(error: Exception, device: torch.device) -> Outcome:
    """What an exception out of a cell means. It must still be at hand, and the failed frames with it."""
    status, facts = _status(error), {}
    # Those that are made for users say by themselves what is wrong.
    told = isinstance(error, UserError | SanityCheckError | Diverged | torch.OutOfMemoryError)
    text = str(error) if told else f"{type(error).__name__}: {error}"
    if isinstance(error, Diverged):
        facts["diverged"] = {
            "what": error.what,
            "value": str(error.value),
            "step": error.step,
            "epoch": error.epoch,
            "last_good_epoch": error.last_good_epoch,
        }
    if status in ("oom", "oom-host"):
        facts["oom"] = _memory(str(error), device)
    return Outcome(status, text, "".join(traceback.format_exception(error)), facts)


def _status(error: Exception) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, torch.OutOfMemoryError) or DEVICE_ALLOCATION.search(str(error)):
        return "oom"
    of_system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or of_system or HOST_ALLOCATION in str(error):
        return "oom-host"
    return "failed"


def _memory(message: str, device: torch.device) -> dict[str, Any]:
    """What was held at most before the request that was refused, and how much that one was for; None is unknown."""
    found = REQUESTED.search(message)
    allocated, reserved = allocator_peaks(device)
    return {
        "requested_bytes": int(float(found[1]) * UNITS[found[2]]) if found else None,
        "peak_allocated_bytes": allocated,
        "peak_reserved_bytes": reserved,
        "peak_rss_bytes": peak_rss_bytes(),
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
    }


def failure_record(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """The record of an outcome; after an allocation that failed it has what was predicted beside it.

    What the cell held must be free by now.
    """
    record = failure(cell, outcome.status, outcome.error, outcome.traceback) | outcome.facts
    if "oom" in record:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        record["oom"]["plan"] = plan_beside(cell)
    return record


def plan_beside(cell: Cell) -> dict[str, Any] | None:
    """What ``plan`` predicts for a cell, made when nothing is measured any more; None where it cannot be planned."""
    try:
        return planned(cell)
    except (UserError, MemoryError, RuntimeError, ValueError, TypeError) as error:
        print(f"no plan: {one_line(str(error))}", file=sys.stderr)
        return None
