"""Warnings of a report: what a reader must know before trusting the numbers, found in the records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from reports.analysis.comparison import Comparison
from reports.analysis.tables import NVML, RESERVED
from reports.load.run_folders import Record, Run
from reports.text import escape, listing

_NUMBER = re.compile(r"\d+(?:\.\d+)?")

UNKNOWN_TOKENS = 0.05
"""Share of unknown tokens from which on a tokenizer does not fit the language of the catalogue."""


def find_warnings(runs: Sequence[Run], comparisons: Sequence[Comparison], merge_notes: Sequence[str]) -> list[str]:
    """Warnings in Markdown, one sentence each, without duplicates.

    Args:
        runs: The runs of the report.
        comparisons: Their comparisons.
        merge_notes: Notes on cells that are in more than one run. Not escaped.
    """
    found = [escape(f"{run.path.resolve().name}: {note}") for run in runs for note in (*run.notes, *run.damaged)]
    found += [escape(note) for note in merge_notes]
    for run in runs:
        found += _unknown_tokens(run)
        found += _foreign_code(run)
    where: dict[str, list[str]] = {}
    for comparison in comparisons:
        for text in _of_comparison(comparison):
            where.setdefault(text, []).append(escape(comparison.title))
    for text, titles in where.items():
        found.append(f"{text}." if len(titles) == len(comparisons) else f"{text} ({'; '.join(titles)}).")
    found += _from_records([record for comparison in comparisons for record in comparison.records])
    return list(dict.fromkeys(found))


def _unknown_tokens(run: Run) -> Iterator[str]:
    shares = run.dataset.get("unknown_token_share")
    named = shares if isinstance(shares, Mapping) else {"the tokenizer": shares}
    for name, share in named.items():
        if isinstance(share, int | float) and share >= UNKNOWN_TOKENS:
            yield f"{share:.0%} of the tokens of the titles are unknown to {escape(name)}, which lowers accuracy."


def _foreign_code(run: Run) -> Iterator[str]:
    """Warnings about models whose own Python files were allowed to run."""
    pairs = run.matrix.get("backbones")
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, Mapping) and pair.get("trust_remote_code") is True:
            names = " and ".join(str(pair[key]) for key in ("text", "image") if pair.get(key))
            yield f"Python code that comes with {escape(names)} was allowed to run (--trust-remote-code)."


def _of_comparison(comparison: Comparison) -> Iterator[str]:
    if comparison.random_weights:
        yield "The backbones were initialised at random: the costs are valid, but accuracy has no meaning"
    timed = comparison.results.loc[comparison.results["epoch_seconds"].notna(), "device"]
    if timed.dropna().str.startswith("cpu").any():
        yield (
            "Times were measured on a CPU: ratios between methods of one table hold, but the seconds do not carry over "
            "to another machine or to a GPU"
        )
    sources = sorted(comparison.results.loc[comparison.results["status"] == "ok", "memory_source"].dropna().unique())
    if len(sources) > 1:
        yield f"The memory comes from more than one source ({escape(', '.join(sources))}), so it is not compared"
    if sources == [RESERVED] and comparison.results[NVML].notna().any():
        yield (
            "NVML did not report the memory of every cell's process, so the peak memory of all cells is what torch's "
            "allocator reserved, without the CUDA context"
        )
    if comparison.unmetered:
        yield (
            "The steps were compiled and no meter measured their memory (the account is of an eager step), so peak "
            "memory and TPME are left empty"
        )
    yield from _against_references(comparison)
    yield from _other_ranks(comparison)
    yield from _different_batches(comparison)
    yield from _resumed(comparison)


def _against_references(comparison: Comparison) -> Iterator[str]:
    if comparison.random_weights:
        return
    floor, ceiling = comparison.reference("popularity", "hr@10"), comparison.reference("bayes", "hr@10")
    spreads = {
        method: spread for method in comparison.measured("hr@10") if (spread := comparison.spread(method, "hr@10"))
    }
    if floor is not None:
        low = [f"{escape(method)} ({spread.mean:.3f})" for method, spread in spreads.items() if spread.mean <= floor]
        if low:
            yield f"HR@10 is not above ranking by popularity ({floor:.3f}) for {listing(low)}"
    for method, spread in spreads.items():
        surely = spread.mean if spread.low is None else spread.low
        if ceiling is not None and surely > ceiling:
            yield (
                f"The HR@10 of {escape(method)} is above the Bayes ceiling by more than its interval "
                f"({spread.mean:.3f} against {ceiling:.3f}), which points to a leak of test data"
            )


def _other_ranks(comparison: Comparison) -> Iterator[str]:
    for record in comparison.records:
        said = record.row.get("hr@10")
        counted = None if record.ranks is None else float((record.ranks.test <= 10).mean())
        if said is not None and counted is not None and abs(said - counted) > 1e-6:
            yield (
                f"The ranks of {escape(record.cell_id)} give an HR@10 of {counted:.4f}, but its record says {said:.4f}"
            )


def _different_batches(comparison: Comparison) -> Iterator[str]:
    digests: dict[object, set[str]] = {}
    for record in comparison.records:
        if record.batch_digest:
            digests.setdefault(record.row.get("seed"), set()).add(record.batch_digest)
    for seed, different in digests.items():
        if len(different) > 1:
            yield f"The methods did not see the same batches with seed {escape(seed)}, so they are not comparable"


def _resumed(comparison: Comparison) -> Iterator[str]:
    said = []
    for record in comparison.records:
        times, lost = record.resumed.get("times"), record.resumed.get("steps_lost")
        if isinstance(times, int) and times:
            steps = f"{lost} steps lost" if isinstance(lost, int) else "steps lost unknown"
            said.append(f"{escape(record.cell_id)} {times} time{'s' * (times != 1)}, {steps}")
    if said:
        yield f"Cells were resumed from a checkpoint ({'; '.join(said)}): time and energy of lost steps are not counted"


def _from_records(records: Sequence[Record]) -> list[str]:
    """Warnings of the cells; warnings that differ in their numbers alone make one line, with the largest numbers."""
    alike: dict[str, dict[str, str]] = {}
    for record in records:
        for warning in record.warnings:
            alike.setdefault(_NUMBER.sub("#", warning), {})[record.cell_id] = warning
    texts = []
    for cells in alike.values():
        worst = max(cells, key=lambda cell: [float(number) for number in _NUMBER.findall(cells[cell])])
        others = f" and {len(cells) - 1} more cell{'s' * (len(cells) > 2)}" if len(cells) > 1 else ""
        largest = ", at most" if len(set(cells.values())) > 1 else ""
        texts.append(f"{escape(cells[worst], limit=300)}{largest} ({escape(worst)}{others})")
    return texts
