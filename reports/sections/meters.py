"""Section on memory: the figures of all meters side by side, and the reasons why they differ."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.columns import MEMORY_PARTS
from reports.analysis.comparison import Comparison
from reports.analysis.per_seed import Read, account, column, mean, per_seed, share, spread
from reports.sections.compiled import of_eager_steps
from reports.text import escape, ratio, size, table

_PEAK = account("peak_bytes")
_METERS: dict[str, tuple[Read, str]] = {
    "Account": (
        _PEAK,
        "the exact bytes of the live tensors of one step, with the largest batch of the first epoch; without the "
        "allocator, the driver and the temporaries inside an operation",
    ),
    "Allocated": (
        column("peak_allocated_bytes"),
        "the peak of the memory that torch's allocator had handed out, over the training steps after the warm-up; with "
        "rounding, the workspaces of kernels and the temporaries inside an operation; a later batch may be larger than "
        "the one of the account",
    ),
    "Reserved": (
        column("peak_reserved_bytes"),
        "the memory that torch's allocator had taken from the driver, in large segments that it keeps and may not fill",
    ),
    "NVML process": (
        column("nvml_process_bytes"),
        "the memory of the process according to the driver, with the CUDA context, loaded kernels and memory not "
        "taken through torch; it is sampled, so a short peak may be missed",
    ),
    "NVML device": (
        column("nvml_device_bytes"),
        "the memory of all processes on the card according to the driver; sampled, so a short peak may be missed",
    ),
    "Peak RSS": (
        column("peak_rss_bytes"),
        "peak host memory of the process over its whole life: Python, libraries, data, set-up and evaluation",
    ),
}


def section(comparison: Comparison) -> str:
    """Table of the meters with figures, the reasons why they differ, and the parts of the account."""
    methods = [method for method in comparison.methods if comparison.seeds(method)]
    there = {name: meter for name, meter in _METERS.items() if any(per_seed(comparison, m, meter[0]) for m in methods)}
    if not there:
        return "No meter of memory has a figure."
    rows = [[escape(method), *(spread(per_seed(comparison, method, read), size) for read, _ in there.values())]
            for method in methods]  # fmt: skip
    reasons = [f"- {name}{_against_account(comparison, methods, name, read)}: {why}{_more(comparison, name)}."
               for name, (read, why) in there.items()]  # fmt: skip
    absent = [name for name in _METERS if name not in there]
    parts = [
        of_eager_steps(comparison),
        table(["Method", *there], rows),
        "\n".join(reasons),
        f"Not measured in this comparison: {', '.join(absent)}." if absent else "",
        _split(comparison, methods),
    ]
    return "\n\n".join(part for part in parts if part)


def _against_account(comparison: Comparison, methods: Sequence[str], name: str, read: Read) -> str:
    """Least and largest ratio of a meter to the account over the methods; empty for the account."""
    if read is _PEAK:
        return ""
    both = [(mean(per_seed(comparison, method, read)), mean(per_seed(comparison, method, _PEAK))) for method in methods]
    times = sorted(value / base for value, base in both if value is not None and base)
    if not times:
        return ""
    least, most = ratio(times[0], 1), ratio(times[-1], 1)
    return f" ({least if least == most else f'{least} to {most}'} the account)"


def _more(comparison: Comparison, name: str) -> str:
    """Further reason for the figure of a meter, which applies on some machines only; empty elsewhere."""
    records = [record for record in comparison.records if record.ok]
    if name == "Peak RSS" and any(str(record.row.get("device")).startswith("cpu") for record in records):
        return "; on a CPU it includes the tensors of the account"
    if name == "NVML device" and any(record.nvml.get("memory_info") == "v1" for record in records):
        return "; on this machine it includes memory that the driver reserves for itself"
    return ""


def _split(comparison: Comparison, methods: Sequence[str]) -> str:
    """Table of the parts of the account and their shares of its peak."""
    peaks = {method: peak for method in methods if (peak := mean(per_seed(comparison, method, _PEAK)))}
    there = [part for part in MEMORY_PARTS if any(any(per_seed(comparison, method, account(part))) for method in peaks)]
    if not there:
        return ""
    rows = []
    for method, peak in peaks.items():
        values = [mean(per_seed(comparison, method, account(part))) for part in there]
        shares = ["" if value is None else f"{size(value)} ({share(value / peak)})" for value in values]
        rows.append([escape(method), size(peak), *shares])
    header = ["Method", "Account", *(part.capitalize() for part in there)]
    text = (
        "Parts of the account at its peak, with their shares in brackets. Activations are the tensors that autograd "
        "keeps for the backward pass; the rest is inputs, temporaries and gradients of activations:"
    )
    return f"{text}\n\n{table(header, rows)}"
