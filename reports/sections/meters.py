"""The meters of memory side by side, and why they do not say the same."""

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
        "the live tensors of one step, the largest batch of the first epoch, byte by byte; it knows no allocator, no "
        "driver, and no temporaries inside an operation",
    ),
    "Allocated": (
        column("peak_allocated_bytes"),
        "what torch's allocator had handed out at its peak, over the training steps after the warm-up: rounded "
        "up, with the workspaces of kernels and what lives inside an operation; another batch may be larger than the "
        "one of the account",
    ),
    "Reserved": (
        column("peak_reserved_bytes"),
        "what that allocator had taken from the driver: in large segments that it keeps and does not always fill",
    ),
    "NVML process": (
        column("nvml_process_bytes"),
        "what the driver books for the process: the CUDA context, loaded kernels and memory taken past torch as well; "
        "sampled, so that a short peak may be missed",
    ),
    "NVML device": (column("nvml_device_bytes"), "what is taken on the card by everybody, sampled as well"),
    "Peak RSS": (
        column("peak_rss_bytes"),
        "host memory of the process over its whole life: Python, libraries, data, set-up and evaluation",
    ),
}


def section(comparison: Comparison) -> str:
    """A table of the meters that are there, the account's parts, and in few words why the meters differ."""
    methods = [method for method in comparison.methods if comparison.seeds(method)]
    there = {name: meter for name, meter in _METERS.items() if any(per_seed(comparison, m, meter[0]) for m in methods)}
    if not there:
        return "No meter of memory has left a figure."
    rows = [[escape(method), *(spread(per_seed(comparison, method, read), size) for read, _ in there.values())]
            for method in methods]  # fmt: skip
    reasons = [f"- {name}{_againstaccount(comparison, methods, name, read)}: {why}{_more(comparison, name)}."
               for name, (read, why) in there.items()]  # fmt: skip
    absent = [name for name in _METERS if name not in there]
    parts = [
        of_eager_steps(comparison),
        table(["Method", *there], rows),
        "\n".join(reasons),
        f"Not measured here: {', '.join(absent)}." if absent else "",
        _split(comparison, methods),
    ]
    return "\n\n".join(part for part in parts if part)


def _againstaccount(comparison: Comparison, methods: Sequence[str], name: str, read: Read) -> str:
    """How far a meter is from the account, over the methods."""
    if read is _PEAK:
        return ""
    both = [(mean(per_seed(comparison, method, read)), mean(per_seed(comparison, method, _PEAK))) for method in methods]
    times = sorted(value / base for value, base in both if value is not None and base)
    if not times:
        return ""
    least, most = ratio(times[0], 1), ratio(times[-1], 1)
    return f" ({least if least == most else f'{least} to {most}'} the account)"


def _more(comparison: Comparison, name: str) -> str:
    """What only some machines have to say of a meter."""
    records = [record for record in comparison.records if record.ok]
    if name == "Peak RSS" and any(str(record.row.get("device")).startswith("cpu") for record in records):
        return ", and on a CPU the tensors of the account among them"
    if name == "NVML device" and any(record.nvml.get("memory_info") == "v1" for record in records):
        return "; this driver counts what it keeps for itself into that"
    return ""


def _split(comparison: Comparison, methods: Sequence[str]) -> str:
    """The parts of the account and their shares."""
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
        "What the account is made of at its peak, in brackets the share. Activations are what autograd keeps for "
        "backward, the rest is inputs, temporaries and gradients of activations:"
    )
    return f"{text}\n\n{table(header, rows)}"
