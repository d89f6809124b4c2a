"""Comparison of two runs cell by cell: ratios of the second to the first with intervals, and regressions."""

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
"""Metrics that are always compared: time (seconds per epoch), params, memory, and accuracy."""

_SAME_CELL = ("method", "dataset", "modality", "text_model", "image_model", "weights", "seed")


@dataclass(frozen=True)
class Threshold:
    """Limit of a ratio; a ratio beyond it is a regression."""

    metric: str
    above: bool
    """True if a ratio above the limit is a regression, False if a ratio below it is."""
    limit: float

    @property
    def text(self) -> str:
        """The threshold as it is typed on the command line, for instance time>1.05."""
        return f"{self.metric}{'>' if self.above else '<'}{self.limit:g}"


@dataclass(frozen=True)
class Ratio:
    """One figure of a cell in both runs and its ratio."""

    cell: str
    method: str
    seed: int | None
    metric: str
    first: float
    second: float
    ratio: float | None
    """Second divided by first; None if the first is 0."""
    low: float | None
    high: float | None
    """Ends of the 95 % interval. Both equal the ratio for exact counts; both are None without steps or ranks."""

    def beyond(self, threshold: Threshold) -> bool:
        """True if the whole interval lies beyond the threshold and the metrics agree."""
        if self.low is None or self.high is None or threshold.metric != self.metric:
            return False
        return self.low > threshold.limit if threshold.above else self.high < threshold.limit


@dataclass(frozen=True)
class RunComparison:
    """Result of comparing two runs."""

    ratios: tuple[Ratio, ...]
    broken: tuple[str, ...]
    """Cells that ended ok in the first run but not in the second, with their status there."""
    missing: tuple[str, ...]
    """Cells that ended ok in the first run and are not in the second."""
    notes: tuple[str, ...]
    """Cells that were left out, and differences other than those of the figures."""

    def regressions(self, thresholds: Sequence[Threshold]) -> list[tuple[Ratio, Threshold]]:
        """Ratios whose whole interval lies beyond a threshold, each with that threshold."""
        return [(ratio, limit) for ratio in self.ratios for limit in thresholds if ratio.beyond(limit)]


def parse_threshold(text: str) -> Threshold:
    """Parse a threshold such as time>1.05 or hr@10<0.95.

    Raises:
        UserError: the text has another form, an unknown metric, or a k or ratio that is not positive.
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
        raise UserError(f"--fail-if {text!r}: the ratio must be above 0")
    return Threshold(metric, sign == ">", value)


def compare(
    first: Path, second: Path, thresholds: Sequence[Threshold] = (), allow_different: bool = False
) -> RunComparison:
    """Compare each cell of the second run with the same cell of the first.

    Two cells are the same if they have the same id, or the same method, data, backbones, modality and seed. Time has a
    bootstrap interval over the steps of each cell, drawn independently; accuracy has a bootstrap interval over users,
    with the same draws for both cells.

    Args:
        first: Run folder that the ratios are relative to.
        second: Run folder that is judged.
        thresholds: Limits; their metrics are compared in addition to `METRICS`.
        allow_different: Compare cells even if machine, budget, data or settings differ.

    Raises:
        UserError: a folder is not a run, files are malformed, the runs have no cell in common, cells may not be
            compared, or a threshold applies to no cell.
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
        raise UserError(f"--fail-if: no cell ended ok in {first}, so {second} cannot be judged")
    for limit in thresholds:
        notes += _unjudged(limit, ratios)
    return RunComparison(tuple(ratios), tuple(broken), tuple(missing), tuple(notes))


def _unjudged(limit: Threshold, ratios: Sequence[Ratio]) -> list[str]:
    """A note for each cell to which a threshold does not apply.

    Raises:
        UserError: the threshold applies to no cell.
    """
    judged = {found.cell for found in ratios if found.metric == limit.metric and found.low is not None}
    if ratios and not judged:
        raise UserError(
            f"--fail-if {limit.text}: no cell has an interval for {limit.metric}: time needs steps.csv in both runs, "
            "memory the same source, accuracy ranks.csv of the same users"
        )
    cells = dict.fromkeys(found.cell for found in ratios if found.cell not in judged)
    return [f"cell {cell}: {limit.metric} has no interval, so {limit.text} was not checked" for cell in cells]


def _matched(first: Run, second: Run) -> tuple[list[tuple[Record, Record]], list[str], list[str]]:
    """Pairs of records of the same cell, ids of cells that ended ok in the first run alone, and notes on the rest."""
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
    """Reason why no cell is in both runs: the columns in which they have no value in common."""
    reasons = []
    for column in _SAME_CELL:
        own, other = ({record.row.get(column) for record in run.records} for run in (first, second))
        if not own & other:
            reasons.append(f"{column.replace('_', ' ')} {_few(own)} in the first, {_few(other)} in the second")
    return "; ".join(reasons) or "no two cells agree in all of method, data, backbones, modality and seed"


def _few(values: set[Any]) -> str:
    """The first three values by name and the number of the others."""
    words = sorted("none" if value is None else str(value) for value in values)
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _cell(record: Record) -> tuple[Any, ...]:
    return tuple(record.row.get(column) for column in _SAME_CELL)


def _same_conditions(pairs: Sequence[tuple[Record, Record]], first: Path, second: Path) -> None:
    """Refuse pairs that a report would not put into one table; cells that did not end ok are not checked."""
    keys = [comparison_keys(results([pair[side] for pair in pairs])) for side in (0, 1)]
    for (mine, theirs), *both in zip(pairs, *keys, strict=True):
        for column, one, other in zip(GROUP, *both, strict=True):
            if one != other and mine.ok and theirs.ok:
                left, right = _apart(one, other)
                raise UserError(
                    f"{first} and {second} differ in {column.replace('_', ' ')} ({left} against {right}): "
                    "--allow-different compares them nevertheless"
                )


def _apart(first: object, second: object) -> tuple[str, str]:
    """Two values as text; of lists of settings only the settings that differ."""
    left, right = (["unknown"] if value is None else str(value).split("; ") for value in (first, second))
    apart = [part for part in left if part not in right], [part for part in right if part not in left]
    one, other = ("; ".join(parts) or "nothing" for parts in apart)
    return one, other


def _differing(first: Record, second: Record) -> Iterator[str]:
    if first.method.get("options") != second.method.get("options"):
        yield f"cell {first.cell_id}: the options of the method differ between the runs"
    if first.batch_digest != second.batch_digest:
        yield f"cell {first.cell_id}: the runs did not see the same batches"


def _ratio(first: Record, second: Record, metric: str) -> Ratio | None:
    """Ratio of one metric of one cell; None if a run has no value or the memory has different sources."""
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
    """The comparison as values that JSON can hold."""
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
