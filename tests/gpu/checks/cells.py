"""Lines of one method at paper scale: memory, phases, loading, energy, and the plan."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from bench.records.columns import PHASES
from reports.load.run_folders import Record
from reports.load.steps import read_steps
from tests.gpu.line import NEEDS_CARD, CheckError, Line, at_least, at_most, skipped
from tests.gpu.runs import Runs

MIB = 2**20


def ended_ok(record: Record) -> Record:
    """The record itself.

    Raises:
        CheckError: the cell did not end ok.
    """
    if not record.ok:
        raise CheckError(f"the cell ended as {record.row['status']}: {record.row['error']}")
    return record


def memory(runs: Runs, method: str) -> Iterator[Line]:
    """NVML's figure, the reserved peak, the allocated peak and the account: each holds the next one."""
    record = ended_ok(runs.cells()[method])
    if runs.dry:
        yield skipped(f"{method}: NVML ≥ reserved ≥ allocated ≥ account", NEEDS_CARD)
        return
    sizes = {
        "NVML": record.row["nvml_process_bytes"],
        "reserved": record.row["peak_reserved_bytes"],
        "allocated": record.row["peak_allocated_bytes"],
        "account": record.memory.get("peak_bytes"),
    }
    for (outer, more), (inner, less) in pairwise(sizes.items()):
        difference = None if more is None or less is None else (more - less) / MIB
        why = "; ".join(warning for warning in record.warnings if "unknown" in warning) if difference is None else ""
        yield at_least(f"{method}: {outer} less {inner}", difference, 0, "MiB", why)


def phases(runs: Runs, method: str) -> Iterator[Line]:
    """Seconds of the phases against those of the step; the median over steps, which a pause of the process spares."""
    steps = read_steps(ended_ok(runs.cells()[method]).steps_path)
    if steps is None:
        raise CheckError("the cell has no steps.csv")
    apart = (steps[list(PHASES)].sum(axis=1) / steps["seconds"] - 1).abs().median()
    yield at_most(f"{method}: sum of the phases against the step", 100 * float(apart), 3, "%")


def loading(runs: Runs, method: str) -> Iterator[Line]:
    """Share of a step that waits for data."""
    shares = ended_ok(runs.cells()[method]).steps["phases"]
    line = at_most(f"{method}: data and transfer", 100 * (shares["data"] + (shares["transfer"] or 0)), 5, "% of a step")
    yield line.not_judged() if runs.dry else line


def energy(runs: Runs, method: str) -> Iterator[Line]:
    """Energy counter of the card against its mean power times the seconds of training."""
    what = f"{method}: energy counter against integrated power"
    record = ended_ok(runs.cells()[method])
    if runs.dry:
        yield skipped(what, NEEDS_CARD)
        return
    reading = record.nvml
    joules, watts = reading.get("energy_joules"), reading.get("power_mean_watts")
    if joules is None or watts is None or reading.get("energy_source") != "counter":
        yield skipped(what, "the driver reports no counter, or the time between evaluations is too short for it")
        return
    yield at_most(what, 100 * abs(joules / (watts * reading["seconds"]) - 1), 15, "%", f"{joules:.0f} J")


def plan(runs: Runs, method: str) -> Iterator[Line]:
    """Predicted bytes of a step against those that were counted when it ran."""
    record = ended_ok(runs.cells()[method])
    planned, counted = record.plan.get("peak_memory_bytes"), record.memory.get("peak_bytes")
    if not planned or not counted:
        raise CheckError("the record has no plan; stderr.txt of the cell says why")
    apart = 100 * abs(planned / counted - 1)
    yield at_most(f"{method}: plan against the account", apart, 15, "%", f"{planned / MIB:.0f} MiB planned")


LINES = {"memory": memory, "phases": phases, "loading": loading, "energy": energy, "plan": plan}
