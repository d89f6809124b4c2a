"""Tests of the section on memory: the meters with figures, their ratios to the account, and its parts."""

from __future__ import annotations

from pathlib import Path

from reports.sections import meters
from tests.reports.factory import make_run
from tests.reports.reading import comparison_of, read_comparison, tables

MIB = 2**20


def test_only_meters_that_are_there_are_shown_and_explained(tmp_path: Path) -> None:
    text = meters.section(comparison_of(tmp_path / "cpu", methods=["fft", "iisan-cached"], seeds=[0]))
    side, split = tables(text)
    assert side == [
        ["Method", "Account", "Peak RSS"],
        ["fft", "410 MiB", "810 MiB"],
        ["iisan-cached", "31.0 MiB", "431 MiB"],
    ]
    assert "- Peak RSS (1.98× to 13.9× the account): " in text
    assert "on a CPU it includes the tensors" in text
    assert "Not measured in this comparison: Allocated, Reserved, NVML process, NVML device." in text
    assert split[0] == ["Method", "Account", "Parameters", "Gradients", "Optimizer", "Activations", "Rest"]


def test_all_meters_of_a_gpu(tmp_path: Path) -> None:
    figures = {
        "peak_allocated_bytes": 440 * MIB,
        "peak_reserved_bytes": 512 * MIB,
        "nvml_process_bytes": 1024 * MIB,
        "nvml_device_bytes": 2048 * MIB,
    }
    changes = {"fft": figures, "lora": {**figures, "nvml_process_bytes": None}}
    run = make_run(tmp_path / "gpu", ["fft", "lora"], [0], changes=changes, device="cuda:0")
    text = meters.section(read_comparison(run))
    side = tables(text)[0]
    assert side[0] == ["Method", "Account", "Allocated", "Reserved", "NVML process", "NVML device", "Peak RSS"]
    assert side[1] == ["fft", "410 MiB", "440 MiB", "512 MiB", "1.00 GiB", "2.00 GiB", "810 MiB"]
    assert side[2][4] == ""
    assert "- Allocated (1.07× to 1.20× the account): " in text
    assert "- NVML process (2.50× the account): " in text
    assert "Not measured" not in text
    assert "on a CPU" not in text


def test_parts_of_the_account_with_their_shares(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=["fft"], seeds=[0])
    account = comparison.records[0].memory
    row = tables(meters.section(comparison))[1][1]
    parts = ("parameters", "gradients", "optimizer", "activations", "rest")
    assert [cell.split("(")[1] for cell in row[2:]] == [
        f"{100 * account[part] / account['peak_bytes']:.{0 if account[part] / account['peak_bytes'] > 0.1 else 1}f}%)"
        for part in parts
    ]


def test_seeds_with_other_peaks_have_a_spread(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft"], [0, 1])
    for place, file in enumerate(sorted((run / "cells").glob("*/record.json"))):
        text = file.read_text()
        file.write_text(text.replace(f'"peak_bytes": {410 * MIB}', f'"peak_bytes": {(400 + 2 * place) * MIB}'))
    # Of two values 2 apart the t interval is 12.706 standard errors of 1 to either side.
    assert tables(meters.section(read_comparison(run)))[0][1][1] == "401 MiB ± 12.7 MiB"


def test_nothing_measured(tmp_path: Path) -> None:
    assert meters.section(comparison_of(tmp_path / "run", status="failed")) == "No meter of memory has a figure."
