"""The two tables of a run: a row per cell (results.csv) and a row per method (summary.csv)."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.records.columns import ADDED, CONTRACT, FURTHER, GROUP, INTEGERS, NOT_A_FIGURE, NUMBERS, TEXTS
from bench.records.tuned import Tuned
from bench.utils.errors import UserError
from reports.analysis.options import DEFAULT, Options
from reports.load import ranks
from reports.load.run_folders import Record

COST_COLUMNS = {"time": "epoch_seconds", "params": "trainable_params", "memory": "peak_memory_bytes"}
"""Column of each cost of the TPME."""

NVML, RESERVED = "nvml_process_bytes", "peak_reserved_bytes"
"""Sources of the peak memory on a GPU, the better one first."""

Key = tuple[Hashable, ...]


def results(records: Iterable[Record], options: Options = DEFAULT) -> pd.DataFrame:
    """Table of results.csv, a row per cell: the columns of the contract in order, further columns, then `ADDED`.

    HR, NDCG and MRR at each k of the options are computed from the ranks if the record does not have them. Figures that
    were not measured are missing. If NVML reported the memory of some cells of a comparison only, the peak memory of
    all of them is the reserved peak of the allocator. `tpme` is computed over the cells of one comparison (`GROUP`) and
    one seed that ended ok with all three costs measured; it is missing if their memory has more than one source.
    """
    rows = [_row(record, options) for record in records]
    known = (*CONTRACT, *FURTHER, *ADDED)
    others = dict.fromkeys(column for row in rows for column in row if column not in known)
    columns = [*CONTRACT, *FURTHER, *others, *ADDED]
    frame = pd.DataFrame({column: _typed(column, [row.get(column) for row in rows]) for column in columns})
    _use_one_memory_source(frame)
    scores: dict[Hashable, float] = {}
    keys = comparison_keys(frame, "seed")
    for key in unique(keys):
        scores.update(scores_of(frame[is_key(keys, key)], options))
    frame["tpme"] = pd.Series(scores, dtype="float64").reindex(frame.index)
    return frame


def _row(record: Record, options: Options) -> dict[str, Any]:
    return {
        **_from_ranks(record, options.ks),
        **record.row,
        "tpme": None,
        "warnings": "; ".join(record.warnings) or record.row.get("warnings") or None,
        "dataset_digest": record.dataset_digest or None,
        "budget": _settings(record.budget),
        "training": _settings(record.training),
        "machine": record.machine or None,
        "run": record.run.resolve().name,
        **_tuning(record.tuned),
    }


def _tuning(tuned: Tuned | None) -> dict[str, float]:
    """Columns of the cost of tuning; empty if the options were not tuned."""
    if tuned is None:
        return {}
    costs = {"tuning_trials": tuned.trials, "tuning_seconds": tuned.seconds, "tuning_joules": tuned.joules}
    return {column: value for column, value in costs.items() if value is not None}


def _from_ranks(record: Record, ks: Sequence[int]) -> dict[str, float]:
    if record.ranks is None:
        return {}
    return {
        ranks.column(metric, k, split): float(ranks.gains(getattr(record.ranks, split), metric, k).mean())
        for split in ranks.SPLITS
        for metric in ranks.METRICS
        for k in ks
    }


def _settings(values: Mapping[str, Any]) -> str | None:
    return "; ".join(f"{key}={value}" for key, value in values.items() if value is not None) or None


def _typed(column: str, values: list[Any]) -> pd.Series[Any]:
    """Column with a data type that keeps integers exact and missing values missing."""
    present = [value for value in values if value is not None]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in present)
    whole = numeric and all(float(value).is_integer() and abs(value) < 2**63 for value in present)
    wants_whole = column in INTEGERS or (column not in NUMBERS and all(isinstance(value, int) for value in present))
    if column in TEXTS or not numeric or (not present and column not in (*INTEGERS, *NUMBERS)):
        return pd.Series([None if value is None else str(value) for value in values], dtype="str")
    if whole and wants_whole:
        return pd.Series([None if value is None else int(value) for value in values], dtype="Int64")
    return pd.Series([None if value is None else float(value) for value in values], dtype="float64")


def comparison_keys(frame: pd.DataFrame, *further: str) -> pd.Series[Any]:
    """Key of each row of either table: rows with equal keys may be compared.

    A missing value is None in the key, since NaN is not equal to itself.
    """
    group = frame[[*GROUP, *further]]
    plain = group.astype(object).where(group.notna(), None)
    return pd.Series(list(plain.itertuples(index=False, name=None)), index=frame.index, dtype=object)


def _use_one_memory_source(frame: pd.DataFrame) -> None:
    """Replaces NVML's memory of processes by the reserved peak in comparisons where NVML did not report all cells."""
    keys = comparison_keys(frame)
    measured = frame["memory_source"].notna() & (frame["status"] == "ok")
    for key in unique(keys):
        rows = measured & is_key(keys, key)
        both = set(frame.loc[rows, "memory_source"]) == {NVML, RESERVED}
        if both and frame.loc[rows, RESERVED].notna().all():
            frame.loc[rows, "peak_memory_bytes"] = frame.loc[rows, RESERVED]
            frame.loc[rows, "memory_source"] = RESERVED


def unique(keys: pd.Series[Any]) -> list[Any]:
    """Distinct keys, in the order of first appearance."""
    return list(dict.fromkeys(keys))


def is_key(keys: pd.Series[Any], key: Key) -> pd.Series[bool]:
    """Boolean mask of the rows with this key."""
    return keys.map(lambda other: other == key)


def scores_of(frame: pd.DataFrame, options: Options) -> dict[Hashable, float]:
    """TPME by row label, over the rows that ended ok with all costs measured; empty if it cannot be computed."""
    try:
        costs = comparable(frame)
        scores = options.tpme_of({str(label): row for label, row in costs.items()})
    except UserError:
        return {}
    return dict(zip(costs, scores.values(), strict=True))


def comparable(frame: pd.DataFrame) -> dict[Hashable, dict[str, float]]:
    """Time, parameters and memory by row label, of the rows that can be part of one TPME.

    Rows whose memory has no source are left out, since their memory cannot be compared with any other.

    Raises:
        UserError: the memory of the rows comes from more than one source; the message names the sources.
    """
    usable = frame[[*COST_COLUMNS.values(), "memory_source"]].notna().all(axis=1)
    if "status" in frame.columns:
        usable &= frame["status"] == "ok"
    sources = sorted(frame.loc[usable, "memory_source"].unique())
    if len(sources) > 1:
        raise UserError(f"memory was measured in different ways ({', '.join(sources)})")
    return {
        label: {name: float(row[column]) for name, column in COST_COLUMNS.items()}
        for label, row in frame[usable].iterrows()
    }


def summary(frame: pd.DataFrame, options: Options = DEFAULT) -> pd.DataFrame:
    """Table of summary.csv, a row per method of each comparison, from the table of `results`.

    The mean of a figure `x` over the seeds that ended ok is in `x`, the ends of its 95 % t interval are in `x_low` and
    `x_high`, which are missing with a single seed. `tpme` is computed from the means. `cells` is the number of all
    cells, `status_*` the number of cells with a status, `seeds` the number of seeds that ended ok.
    """
    figures = [
        column
        for column in frame.columns
        if column not in NOT_A_FIGURE and column not in TEXTS and pd.api.types.is_numeric_dtype(frame[column])
    ]
    statuses = list(dict.fromkeys(["ok", *frame["status"]]))
    keys = comparison_keys(frame)
    rows: list[dict[str, Any]] = []
    for key in unique(keys):
        group = frame[is_key(keys, key)]
        rows.extend(
            {"method": method, **dict(zip(GROUP, key, strict=True)), **_method_row(cells, figures, statuses)}
            for method, cells in group.groupby("method", sort=False)
        )
    ends = {f"{column}{end}" for column in figures for end in ("_low", "_high")}
    table = pd.DataFrame(
        {
            column: pd.Series(values, dtype="float64") if column in ends else _typed(column, values)
            for column, values in _columns_of(rows)
        }
    )
    table["tpme"] = _summary_scores(table, options)
    return table


def _columns_of(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[Any]]]:
    for column in dict.fromkeys(column for row in rows for column in row):
        yield column, [row.get(column) for row in rows]


def _method_row(cells: pd.DataFrame, figures: Sequence[str], statuses: Sequence[str]) -> dict[str, Any]:
    ok = cells[cells["status"] == "ok"]
    sources = list(ok["memory_source"].dropna().unique())
    row: dict[str, Any] = {
        "cells": len(cells),
        **{f"status_{status}": int((cells["status"] == status).sum()) for status in statuses},
        "seeds": int(ok["seed"].nunique()),
        "memory_source": sources[0] if len(sources) == 1 else None,
    }
    for column in figures:
        values = ok[column].dropna().astype(float).to_numpy()
        if column == "peak_memory_bytes" and len(sources) > 1:
            values = values[:0]  # a mean over two sources of memory would have no meaning
        row[column], row[f"{column}_low"], row[f"{column}_high"] = mean_interval(values)
    return row


def mean_interval(values: NDArray[np.floating[Any]]) -> tuple[float | None, float | None, float | None]:
    """Mean and ends of the 95 % t interval of a sample, shape (n,); no interval for n = 1, all None for n = 0."""
    if len(values) == 0:
        return None, None, None
    mean = float(values.mean())
    if len(values) == 1:
        return mean, None, None
    half = float(stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _summary_scores(table: pd.DataFrame, options: Options) -> pd.Series[float]:
    keys = comparison_keys(table)
    scores: dict[Hashable, float] = {}
    for key in unique(keys):
        scores.update(scores_of(table[is_key(keys, key)], options))
    return pd.Series(scores, dtype="float64").reindex(table.index)
