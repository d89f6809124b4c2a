"""Two runs cell by cell: what the second takes and gives, as a ratio to the first, and whether that is a regression."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.records.columns import GROUP
from bench.utils.errors import UserError
from reports.analysis import resampling
from reports.analysis.resampled_steps import resampled_epochs
from reports.analysis.tables import COST_COLUMNS, comparison_keys, results
from reports.load import ranks
from reports.load.run_folders import Record, Run, load_run
from reports.load.steps import read_steps

METRICS = (*COST_COLUMNS, "hr@10", "ndcg@10")
"""What is always compared: time (seconds per epoch), params, memory, and accuracy."""

_SAME_CELL = ("method", "dataset", "modality", "text_model", "image_model", "weights", "seed")


@dataclass(frozen=True)
class Threshold:
    """A ratio that must not be passed."""

    metric: str
    above: bool
    """Whether a regression is a ratio above the limit."""
    limit: float

    @property
    def text(self) -> str:
        """As it is typed."""
        return f"{self.metric}{'>' if self.above else '<'}{self.limit:g}"


@dataclass(frozen=True)
class Ratio:
    """A figure of a cell in both runs."""

    cell: str
    method: str
    seed: int | None
    metric: str
    first: float
    second: float
    ratio: float | None
    """Second to first; None where the first is 0."""
    low: float | None
    high: float | None
    """95 % interval; both are the ratio for what is counted exactly, None where there is nothing to draw from."""

    def beyond(self, threshold: Threshold) -> bool:
        """Whether the whole interval lies beyond the threshold."""
        if self.low is None or self.high is None or threshold.metric != self.metric:
            return False
        return self.low > threshold.limit if threshold.above else self.high < threshold.limit


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side."""

    ratios: tuple[Ratio, ...]
    broken: tuple[str, ...]
    """Cells that ended ok in the first run and not in the second, with how they ended."""
    missing: tuple[str, ...]
    """Cells that ended ok in the first run and that the second does not have."""
    notes: tuple[str, ...]
    """What was left out, and what differs beside the figures."""

    def regressions(self, thresholds: Sequence[Threshold]) -> list[tuple[Ratio, Threshold]]:
        """What lies beyond a threshold with its whole interval."""
        return [(ratio, limit) for ratio in self.ratios for limit in thresholds if ratio.beyond(limit)]


def parse_threshold(text: str) -> Threshold:
    """Read one such as time>1.05 or hr@10<0.95.

    Raises:
        UserError: no such metric, k or form.
    """
    found = re.fullmatch(r"\s*([^\s<>=]+)\s*([<>])\s*([0-9.]+(?:[eE][-+]?\d+)?)\s*", text)
    if not found:
        raise UserError(f"--fail-if {text!r}: expected METRIC>RATIO or METRIC<RATIO, such as time>1.05")
    metric, sign, limit = found.groups()
    if metric not in COST_COLUMNS and ranks.parse_metric(metric) is None:
        raise UserError(
            f"--fail-if {text!r}: unknown metric {metric!r}; known: {', '.join(COST_COLUMNS)}, and hr@k, ndcg@k, mrr@k "
            "with a whole k of at least 1"
        )
    try:
        value = float(limit)
    except ValueError:
        raise UserError(f"--fail-if {text!r}: {limit!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise UserError(f"--fail-if {text!r}: a ratio is above 0")
    return Threshold(metric, sign == ">", value)


def compare(
    first: Path, second: Path, thresholds: Sequence[Threshold] = (), allow_different: bool = False
) -> RunComparison:
    """Set the cells of the second run against the same ones of the first.

    Cells are the same that have the same id, or the same method, data, backbones, modality and seed. Time has an
    interval from drawing steps anew, each cell for itself, accuracy one from drawing users for both cells alike.

    Args:
        first: The run that the ratios are relative to.
        second: The run that is judged.
        thresholds: Their metrics are compared beside `METRICS`.
        allow_different: Compare cells of other machines, budgets, data or settings all the same.

    Raises:
        UserError: a folder that is no run, malformed files, no cell in common, cells that may not be compared, a
            threshold that no cell can be judged by.
    """
    runs = load_run(first), load_run(second)
    pairs, missing, notes = _matched(*runs)
    if not allow_different:
        _same_conditions(pairs, first, second)
    metrics = list(dict.fromkeys([*METRICS, *(limit.metric for limit in thresholds)]))
    ratios = []
    broken = []
    for mine, theirs in pairs:
        if not mine.ok:
            notes.append(f"cell {mine.cell_id} did not end ok in {first}")
        elif not theirs.ok:
            broken.append(f"{theirs.cell_id} ended {theirs.row['status']}")
        else:
            ratios += [found for metric in metrics if (found := _ratio(mine, theirs, metric))]
            notes += _differing(mine, theirs)
    if thresholds and not (ratios or broken or missing):
        raise UserError(f"--fail-if: no cell ended ok in {first}, so there is nothing to judge {second} by")
    for limit in thresholds:
        notes += _unjudged(limit, ratios)
    return RunComparison(tuple(ratios), tuple(broken), tuple(missing), tuple(notes))


def _unjudged(limit: Threshold, ratios: Sequence[Ratio]) -> list[str]:
    """A note for each cell that a threshold says nothing about; a threshold that says nothing at all is a mistake."""
    judged = {found.cell for found in ratios if found.metric == limit.metric and found.low is not None}
    if ratios and not judged:
        raise UserError(
            f"--fail-if {limit.text}: no cell has an interval for {limit.metric} in both runs, which takes "
            "steps.csv for time, one source for memory and ranks.csv of the same users for accuracy"
        )
    cells = dict.fromkeys(found.cell for found in ratios if found.cell not in judged)
    return [f"cell {cell}: {limit.metric} has no interval, so {limit.text} was not checked" for cell in cells]


def _matched(first: Run, second: Run) -> tuple[list[tuple[Record, Record]], list[str], list[str]]:
    """Records of the same cells, the cells that only the first run has a figure of, and notes on what was left out."""
    by_id = {record.cell_id: record for record in second.records}
    by_cell = {_cell(record): record for record in second.records}
    pairs, missing = [], []
    notes = [f"{run.path}: {text}" for run in (first, second) for text in run.damaged]
    for record in first.records:
        other = by_id.get(record.cell_id) or by_cell.get(_cell(record))
        if other is not None:
            pairs.append((record, other))
        elif record.ok:
            missing.append(record.cell_id)
        else:
            notes.append(f"cell {record.cell_id} is in {first.path} only, and did not end ok there")
    if not pairs:
        raise UserError(f"{first.path} and {second.path} have no cell in common: {_why_apart(first, second)}")
    taken = {id(other) for _, other in pairs}
    notes += [f"cell {record.cell_id} is in {second.path} only" for record in second.records if id(record) not in taken]
    return pairs, missing, notes


def _why_apart(first: Run, second: Run) -> str:
    """What no cell of one run shares with any of the other, in words."""
    reasons = []
    for column in _SAME_CELL:
        own, other = ({record.row.get(column) for record in run.records} for run in (first, second))
        if not own & other:
            reasons.append(f"{column.replace('_', ' ')} {_few(own)} in the first, {_few(other)} in the second")
    return "; ".join(reasons) or "no two cells agree in all of method, data, backbones, modality and seed"


def _few(values: set[Any]) -> str:
    """Some values in words, the first three by name."""
    words = sorted("none" if value is None else str(value) for value in values)
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _cell(record: Record) -> tuple[Any, ...]:
    return tuple(record.row.get(column) for column in _SAME_CELL)


def _same_conditions(pairs: Sequence[tuple[Record, Record]], first: Path, second: Path) -> None:
    """Refuse what a report would not put into one table; how a cell that died was set up may be unknown."""
    keys = [comparison_keys(results([pair[side] for pair in pairs])) for side in (0, 1)]
    for (mine, theirs), *both in zip(pairs, *keys, strict=True):
        for column, one, other in zip(GROUP, *both, strict=True):
            if one != other and mine.ok and theirs.ok:
                left, right = _apart(one, other)
                raise UserError(
                    f"{first} and {second} differ in {column.replace('_', ' ')} ({left} against {right}): "
                    "--allow-different compares them all the same"
                )


def _apart(first: object, second: object) -> tuple[str, str]:
    """Two values in words; of lists of settings only those that are not the same."""
    left, right = (["unknown"] if value is None else str(value).split("; ") for value in (first, second))
    apart = [part for part in left if part not in right], [part for part in right if part not in left]
    one, other = ("; ".join(parts) or "nothing" for parts in apart)
    return one, other


def _differing(first: Record, second: Record) -> Iterator[str]:
    if first.method.get("options") != second.method.get("options"):
        yield f"cell {first.cell_id}: the method has other options in the second run"
    if first.batch_digest != second.batch_digest:
        yield f"cell {first.cell_id}: the runs did not see the same batches"


def _ratio(first: Record, second: Record, metric: str) -> Ratio | None:
    """One metric of one cell; None where either run does not have it."""
    mine, theirs = _value(first, metric), _value(second, metric)
    if mine is None or theirs is None or (metric == "memory" and _source(first) != _source(second)):
        return None
    ratio = theirs / mine if mine else None
    low, high = _interval(first, second, metric, ratio)
    return Ratio(first.cell_id, str(first.row["method"]), first.row.get("seed"), metric, mine, theirs, ratio, low, high)


def _source(record: Record) -> object:
    return record.row.get("memory_source")


def _value(record: Record, metric: str) -> float | None:
    column = COST_COLUMNS.get(metric, metric)
    value = record.row.get(column)
    if value is None and (asked := ranks.parse_metric(metric)) and record.ranks is not None:
        return float(ranks.gains(record.ranks.test, *asked).mean())
    return None if value is None else float(value)


def _interval(first: Record, second: Record, metric: str, ratio: float | None) -> tuple[float | None, float | None]:
    if ratio is None:
        return None, None
    if metric in ("params", "memory"):
        return ratio, ratio
    replicates = _times(first, second) if metric == "time" else _accuracies(first, second, metric)
    if replicates is None or not np.isfinite(replicates).any():
        return None, None
    low, high = resampling.interval(replicates)
    return float(low), float(high)


def _times(first: Record, second: Record) -> resampling.FloatArray | None:
    steps = [read_steps(record.steps_path) for record in (first, second)]
    if any(frame is None or frame.empty for frame in steps):
        return None
    drawn = [
        resampled_epochs(record, frame, draw)
        for record, frame, draw in zip((first, second), steps, ("first", "second"), strict=True)
        if frame is not None
    ]
    return np.asarray(drawn[1] / drawn[0])


def _accuracies(first: Record, second: Record, metric: str) -> resampling.FloatArray | None:
    asked = ranks.parse_metric(metric)
    if asked is None or first.ranks is None or second.ranks is None or first.ranks.users != second.ranks.users:
        return None
    gained = np.stack([ranks.gains(found.test, *asked) for found in (first.ranks, second.ranks)], axis=1)
    means = resampling.resampled_means(gained)
    return np.divide(means[:, 1], means[:, 0], out=np.full(len(means), np.nan), where=means[:, 0] > 0)


def as_json(comparison: RunComparison, thresholds: Sequence[Threshold]) -> Mapping[str, Any]:
    """The comparison as plain values."""
    return {
        "cells": [vars(ratio) for ratio in comparison.ratios],
        "regressions": [
            {"cell": ratio.cell, "metric": ratio.metric, "ratio": ratio.ratio, "fail_if": limit.text}
            for ratio, limit in comparison.regressions(thresholds)
        ],
        "broken": list(comparison.broken),
        "missing": list(comparison.missing),
        "notes": list(comparison.notes),
    }
