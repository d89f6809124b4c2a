"""Tests of the section on the plan: equal and different quantities, and the reasons on each device."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports.sections import plan_vs_measured
from tests.reports.factory import CACHE_BYTES, make_run, write_json
from tests.reports.reading import read_comparison, tables

Change = Callable[[dict[str, Any]], object]


def section(path: Path, change: dict[str, Change] | None = None, seeds: tuple[int, ...] = (0,), **row: Any) -> str:
    run = make_run(path, ["fft", "lora", "iisan-cached"], seeds, **row)
    for method, edit in (change or {}).items():
        for file in (run / "cells").glob(f"{method}--*/record.json"):
            record = json.loads(file.read_text())
            edit(record)
            write_json(file, record)
    return plan_vs_measured.section(read_comparison(run))


def test_a_plan_equal_to_the_measurement(tmp_path: Path) -> None:
    text = section(tmp_path / "run", seeds=(0, 1))
    memory, counted = tables(text)
    assert memory[0] == ["Method", "Peak memory, planned", "Account"]
    assert memory[1] == ["fft", "410 MiB", "410 MiB (=)"]
    assert counted[1][:3] == ["fft", "1,290,000", "1,290,000 (=)"]
    assert counted[1][3:5] == ["4.00 GFLOP", "4.00 GFLOP (=)"]
    assert counted[3][-2:] == ["1.20 MiB", f"1.20 MiB ({(CACHE_BYTES + 256) / CACHE_BYTES:.4f}×)"]
    assert counted[1][-2:] == ["", ""]
    same = "equal to the last digit for every method in peak memory, trainable parameters, FLOPs forward and FLOPs"
    assert same in text
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith("- ")] == ["- cache"]


def more(part: str, key: str, factor: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        record[part][key] = round(record[part][key] * factor)

    return change


@pytest.mark.parametrize(
    ("device", "why"),
    [("cpu", "no reason for a difference is known on a CPU"), ("cuda:0", "operations of a CPU")],
)
def test_where_they_part_depends_on_the_device(tmp_path: Path, device: str, why: str) -> None:
    def change(record: dict[str, Any]) -> None:
        more("memory", "peak_bytes", 1.5)(record)
        more("memory", "activations", 1.6)(record)

    text = section(tmp_path / "run", {"lora": change, "fft": more("row", "flops_backward", 0.999)}, device=device)
    lines = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    assert set(lines) == {"peak memory", "FLOPs backward", "cache"}
    assert lines["peak memory"].startswith("lora (1.50×, most in activations); ")
    assert lines["FLOPs backward"].startswith("fft (0.999×); ")
    assert why in lines["peak memory"]
    assert why in lines["FLOPs backward"]
    assert "header" in lines["cache"]


def test_one_seed_with_a_difference_is_enough(tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        record["row"]["trainable_params"] += 2 * record["row"]["seed"] - 1  # the sum over both seeds stays the same

    text = section(tmp_path / "run", {"fft": change}, seeds=(0, 1))
    assert "- trainable parameters: fft (equal in the mean over seeds alone); both count the same parameters" in text


def test_the_meters_of_a_gpu_stand_beside_the_plan(tmp_path: Path) -> None:
    def change(record: dict[str, Any]) -> None:
        peak = record["memory"]["peak_bytes"]
        record["row"] |= {"peak_allocated_bytes": round(1.25 * peak), "peak_reserved_bytes": 2 * peak}

    memory = tables(section(tmp_path / "run", {"fft": change}, device="cuda:0"))[0]
    assert memory[0][3:] == ["Allocated", "Reserved"]
    assert memory[1][3:] == ["512 MiB (1.25×)", "820 MiB (2.00×)"]
    assert memory[2][3:] == ["", ""]


def test_records_without_a_plan(tmp_path: Path) -> None:
    gone: Change = lambda record: record.pop("plan")  # noqa: E731
    null: Change = lambda record: record.update(plan=None)  # noqa: E731
    some = section(tmp_path / "some", {"lora": gone})
    assert "The records of lora hold no plan: " in some
    assert [row[0] for row in tables(some)[0][1:]] == ["fft", "iisan-cached"]
    none = section(tmp_path / "none", {"fft": gone, "lora": gone, "iisan-cached": null})
    assert none.startswith("The records of fft, lora and iisan-cached hold no plan: ")
    assert section(tmp_path / "failed", status="oom") == "No cell ended ok."
