"""Tests of the section on computing: FLOP/s, share of the peak or why it is empty, and time of a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.scoring.roofline import CARDS
from reports.sections.computing import cells, peak_of, section
from tests.reports.factory import METHODS, environment, make_run, write_json
from tests.reports.reading import read_comparison, tables


def run_of(path: Path, gpu: Any = None, flags: dict[str, Any] | None = None, nvml: Any = None, **row: Any) -> Path:
    run = make_run(path, ["fft", "iisan-cached"], [0], **row)
    for file in (run / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        record["environment"] = {**environment(), "gpu": gpu, "precision_flags": flags or {}}
        write_json(file, {**record, "nvml": nvml})
    return run


@pytest.mark.parametrize(("precision", "peak"), [("fp32", 67e12), ("bf16", 989.5e12), ("fp16", 989.5e12)])
def test_share_of_the_peak_by_hand(tmp_path: Path, precision: str, peak: float) -> None:
    gpu = {"name": "NVIDIA H100 80GB HBM3", "uuid": "GPU-1"}
    comparison = read_comparison(
        run_of(tmp_path / "run", gpu, {"cuda_matmul_tf32": False}, device="cuda:0", precision=precision)
    )
    assert peak_of(comparison.records[0]) == (peak, CARDS["h100-sxm"], "")
    text = section(comparison)
    header, fft, _ = tables(text)[0]
    cells = dict(zip(header, fft, strict=True))
    rate = 9e9 / comparison.records[0].steps["median"]
    assert cells["Model FLOP/s"] == f"{rate / 1e9:.1f} GFLOP/s"
    assert cells["Of the peak"] == f"{float(f'{100 * rate / peak:.1g}')}%"
    assert (cells["Forward"], cells["Backward"], cells["Distinct items"]) == ("3.00 GFLOP", "6.00 GFLOP", "214")
    assert cells["Operators"] == "390"
    assert f"dense, in {precision} (NVIDIA H100" in text


@pytest.mark.parametrize(
    ("gpu", "flags", "nvml", "row", "why"),
    [
        (None, {}, None, {}, "the peak of a CPU is not known"),
        (
            {"name": "Made-up GPU"},
            {},
            None,
            {"device": "cuda:0"},
            "the peak of Made-up GPU is not in the table of cards",
        ),
        ({"name": "Tesla T4"}, {}, None, {"device": "cuda:0", "precision": "bf16"}, "Tesla T4 has no units for bf16"),
        ({"name": "NVIDIA A30"}, {}, {"mig": True}, {"device": "cuda:0"}, "NVIDIA A30 is a slice of a card"),
        ({"name": "NVIDIA A30"}, {"cuda_matmul_tf32": True}, None, {"device": "cuda:0"}, "TF32 was allowed"),
        ({"name": "NVIDIA A30"}, {"float32_matmul_precision": "high"}, None, {"device": "cuda:0"}, "TF32 was allowed"),
    ],
)
def test_where_there_is_no_peak_it_says_why(
    tmp_path: Path, gpu: Any, flags: dict[str, Any], nvml: Any, row: dict[str, Any], why: str
) -> None:
    text = section(read_comparison(run_of(tmp_path / "run", gpu, flags, nvml, **row)))
    assert f"The share of the peak is empty: {why}" in text
    assert [line[-1] for line in tables(text)[0][1:]] == ["", ""]


def test_tf32_does_not_touch_16_bit(tmp_path: Path) -> None:
    gpu, flags = {"name": "NVIDIA A30"}, {"cuda_matmul_tf32": True}
    comparison = read_comparison(run_of(tmp_path / "run", gpu, flags, device="cuda:0", precision="bf16"))
    assert peak_of(comparison.records[0])[0] == CARDS["a30"].half


def test_time_of_a_step_and_its_phases(tmp_path: Path) -> None:
    comparison = read_comparison(run_of(tmp_path / "run"))
    header, fft, cached = tables(section(comparison))[1]
    cells = dict(zip(header, fft, strict=True))
    step = 1000 * comparison.records[0].steps["median"]
    assert cells["Median"] == f"{step:.0f} ms"
    assert cells["Quartiles"] == f"{0.9 * step:.0f} ms to {1.2 * step:.0f} ms"
    assert cells["95th percentile"] == f"{1.5 * step:.0f} ms"
    assert (cells["Variation"], cells["Steps"]) == ("7.0%", "141")
    assert [cells[name] for name in ("Data", "Transfer", "Backbone", "Backward")] == ["2.0%", "", "30%", "56%"]
    assert METHODS["fft"][4][:2] == (0.02, 0.30)
    assert cached[header.index("Backbone")] == "0%"


def test_older_records(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    for file in (run / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        write_json(file, {key: value for key, value in record.items() if key not in ("compute", "steps")})
    assert section(read_comparison(run)) == "The records of fft and iisan-cached have no FLOPs of a median step."
    assert section(read_comparison(make_run(tmp_path / "failed", ["fft"], [0], status="hung"))) == "No cell ended ok."


def changed(run: Path, method: str, **entries: Any) -> None:
    """Overwrite entries in the records of a method."""
    for path in (run / "cells").glob(f"{method}--*/record.json"):
        write_json(path, {**json.loads(path.read_text()), **entries})


def test_seconds_of_the_phases_are_medians_and_sum_to_the_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0, 1, 2], train_seconds=10.0)
    for seed, assembling in enumerate((1.0, 2.0, 9.0)):
        phases = {"assemble": assembling, "train": 13.0, "test": 4.0, "save weights": 0.001}
        changed(run, f"lora--*--s{seed}", phase_seconds=phases)
    changed(run, "fft", phase_seconds={"assemble": 5.0, "train": 12.0, "probe": 3.0})
    [(header, fft, lora)] = tables(cells(read_comparison(run)))
    assert header == ["Method", "Training steps", "Assemble", "Validation", "Probe", "Test", "Whole cell", "Overhead"]
    shown = dict(zip(header, lora, strict=True))
    assert shown["Training steps"] == "10.0"
    assert (shown["Assemble"], shown["Validation"], shown["Test"], shown["Probe"]) == ("2.00", "3.00", "4.00", "0")
    assert (shown["Whole cell"], shown["Overhead"]) == ("19.0", "47%")  # of the seed in the middle: 9 of 19
    assert dict(zip(header, fft, strict=True))["Overhead"] == "50%"


def test_resumed_cells_and_old_records_have_no_phases(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0])
    changed(run, "lora", resumed={"times": 1, "steps_lost": 2})
    [(_, *rows)] = tables(cells(read_comparison(run)))
    assert [row[0] for row in rows] == ["fft"]
    changed(run, "fft", phase_seconds=None)
    assert cells(read_comparison(run)) == ""


def test_the_busy_share_stands_beside_the_seconds_where_it_is_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0])
    assert "GPU busy" not in section(read_comparison(run))
    changed(run, "lora", trace={"steps": 3, "gpu_busy_share": 0.43})
    changed(run, "fft", trace={"steps": 3, "gpu_busy_share": None})
    text = section(read_comparison(run))
    header, *rows = tables(text)[1]
    assert "at least one kernel ran" in text
    place = header.index("GPU busy")
    assert [row[place] for row in rows] == ["", "43%"]
    assert all(len(row) == len(header) for row in rows)
    assert [row[header.index("Optimizer")] for row in rows] == ["6.0%", "3.0%"]
