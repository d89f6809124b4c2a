"""Classification of exceptions that end a cell, and the record of a failed cell."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from dataclasses import dataclass
from typing import Any

import torch

from bench.cell.planner import plan_entry
from bench.cell.sanity_checks import SanityCheckError
from bench.config.cells import Cell
from bench.measure.host import peak_rss_bytes
from bench.measure.memory import allocator_peaks
from bench.records.record import failure, one_line
from bench.training.loop import Diverged
from bench.utils.errors import UserError

UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
# Torch's wording for a GPU and for the host.
REQUESTED = re.compile(r"[Tt]ried to allocate (\d+(?:\.\d+)?) (bytes|[KMGT]iB)")
# Allocations on a GPU that bypass torch's allocator: a CUDA context, the driver, Triton, or workspaces of a library.
DEVICE_ALLOCATION = re.compile(
    r"CUDA (driver |runtime )?error: out of memory|Triton Error \[CUDA\]: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
    r"|cudaErrorMemoryAllocation|CU[A-Z]+_(STATUS_)?(INTERNAL_ERROR_DEVICE_)?ALLOC(ATION)?_FAILED"
)
HOST_ALLOCATION = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"
)


@dataclass(frozen=True)
class Failure:
    """Status and cause of a cell that did not end ok.

    Attributes:
        status: oom, oom-host, diverged or failed.
        error: message for the row of results.csv.
        traceback: traceback of the exception, as text.
        entries: further entries of the record.
    """

    status: str
    error: str
    traceback: str
    entries: dict[str, Any]


def classify_failure(error: Exception, device: torch.device) -> Failure:
    """Status, message and record entries for an exception; call it in the handler, before the exception is dropped.

    Args:
        error: exception that ended the cell.
        device: device of the cell.
    """
    status, entries = _status(error), {}
    # Messages of these classes are complete without the name of the class.
    self_explanatory = isinstance(error, UserError | SanityCheckError | Diverged | torch.OutOfMemoryError)
    text = str(error) if self_explanatory else f"{type(error).__name__}: {error}"
    if isinstance(error, Diverged):
        entries["diverged"] = {
            "what": error.what,
            "value": str(error.value),
            "step": error.step,
            "epoch": error.epoch,
            "last_good_epoch": error.last_good_epoch,
        }
    if status in ("oom", "oom-host"):
        entries["oom"] = _memory_entry(str(error), device)
    return Failure(status, text, "".join(traceback.format_exception(error)), entries)


def _status(error: Exception) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, torch.OutOfMemoryError) or DEVICE_ALLOCATION.search(str(error)):
        return "oom"
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or no_memory or HOST_ALLOCATION.search(str(error)):
        return "oom-host"
    return "failed"


def _memory_entry(message: str, device: torch.device) -> dict[str, Any]:
    """Bytes of the refused request and peaks of the memory held before it; None is unknown."""
    request = REQUESTED.search(message)
    allocated, reserved = allocator_peaks(device)
    return {
        "requested_bytes": int(float(request[1]) * UNITS[request[2]]) if request else None,
        "peak_allocated_bytes": allocated,
        "peak_reserved_bytes": reserved,
        "peak_rss_bytes": peak_rss_bytes(),
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
    }


def failure_record(cell: Cell, cause: Failure) -> dict[str, Any]:
    """Make the record of a failed cell; after a failed allocation it includes the prediction for the cell.

    Drop model, data and optimizer of the cell first: the prediction needs memory too.
    """
    record = failure(cell, cause.status, cause.error, cause.traceback) | cause.entries
    if "oom" in record:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        record["oom"]["plan"] = plan_beside(cell)
    return record


def plan_beside(cell: Cell) -> dict[str, Any] | None:
    """Prediction of ``plan`` for a cell, made after all measurements; None if the cell cannot be planned."""
    try:
        return plan_entry(cell)
    except (UserError, MemoryError, RuntimeError, ValueError, TypeError) as error:
        print(f"the cell cannot be planned: {one_line(str(error))}", file=sys.stderr)
        return None
