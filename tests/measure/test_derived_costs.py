"""Costs against numbers worked out by hand, and against the files of a cell that was run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.cell.assemble import assemble
from bench.cell.run_cell import run_cell
from bench.data.batches import epoch_batches, median_batch
from bench.data.cache.location import cache_dir
from bench.data.splits import split
from bench.measure.clock import Row
from bench.measure.derived_costs import cache_cost, compute_rate, epoch_times
from bench.measure.flops import Flops
from bench.models.hidden_states import CacheFile
from tests.conftest import CellRecord
from tests.tiny import cell_of


def rows(*seconds: float) -> list[Row]:
    return [{"epoch": 1, "step": step, "seconds": value} for step, value in enumerate(seconds, 1)]


def test_an_epoch_is_the_median_of_the_whole_ones() -> None:
    found, doubts = epoch_times(rows(1, 2, 3, 4, 10, 20, 7), 2)
    assert found == {"epochs": 3.5, "steps": 7, "step_seconds_median": 4.0, "epoch_seconds": 7.0}
    assert doubts == []


def test_an_epoch_that_was_not_finished_is_extrapolated_and_says_so() -> None:
    found, doubts = epoch_times(rows(1, 2, 6), 10)
    assert found["epoch_seconds"] == pytest.approx(30.0)
    assert found["epochs"] == pytest.approx(0.3)
    assert doubts == ["epoch_seconds is extrapolated from 3 steps"]


def test_the_cost_of_a_cache() -> None:
    text = CacheFile(np.zeros((50, 7, 64), dtype=np.float16), 2.0, True, 1000)
    image = CacheFile(np.zeros((50, 3, 32), dtype=np.float32), 3.0, False, 2000)
    found = cache_cost({"text": text, "image": image}, items_per_step=12.5)
    assert found is not None
    parts = found.pop("modalities")
    assert parts["text"] == {"seconds": 2.0, "bytes": 1000, "reused": True, "bytes_per_step": 12.5 * 7 * 64 * 2}
    assert parts["image"] == {"seconds": 3.0, "bytes": 2000, "reused": False, "bytes_per_step": 12.5 * 3 * 32 * 4}
    assert found == {"seconds": 5.0, "bytes": 3000, "bytes_per_step": 12.5 * (896 + 384), "reused": False}
    assert cache_cost({}, 12.5) is None


def test_the_rate_divides_one_steps_operations_by_one_steps_seconds() -> None:
    found = compute_rate(Flops(forward=600, backward=1400), 40, 390, 0.5)
    assert found["model_flops_per_second"] == 4000
    assert found["operators_per_step"] == 390
    assert (found["items"], found["flops_forward"], found["flops_backward"], found["step_seconds"]) == (
        40,
        600,
        1400,
        0.5,
    )


def test_the_median_batch_stands_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    splits = split([rng.choice(300, size=size, replace=False) for size in rng.integers(5, 14, 200)], 300)
    sizes = sorted(len(batch.unique) for batch in epoch_batches(splits, 8, 3, 1))
    chosen = len(median_batch(splits, 8, 3).unique)
    assert sizes[0] < chosen < sizes[-1]
    assert sum(size < chosen for size in sizes) <= len(sizes) / 2
    assert sum(size > chosen for size in sizes) <= len(sizes) / 2


@pytest.mark.usefixtures("no_plan")
def test_a_record_says_what_the_cache_on_disk_says(model_folders: dict[str, Path], tmp_path: Path) -> None:
    # A catalogue of its own: the cache is keyed by content, and no other test must have built it.
    cell = cell_of("iisan-cached", model_folders, dataset={"items": 61, "users": 40})
    events: list[dict[str, Any]] = []
    first = run_cell(cell, tmp_path / "first", events.append)
    told = [(e["modality"], e["done"], e["total"]) for e in events if e["event"] == "cache"]
    assert told == [(modality, done, 61) for modality in ("text", "image") for done in (0, 61)]
    events.clear()
    second = run_cell(cell, tmp_path / "second", events.append)
    assert not any(event["event"] == "cache" for event in events)
    assert (first["cache"]["reused"], second["cache"]["reused"]) == (False, True)
    assert first["cache"]["seconds"] == pytest.approx(second["cache"]["seconds"], abs=1e-5)
    assert second["cache"]["seconds"] > 0
    on_disk = {path.stat().st_size for path in (cache_dir() / "hidden").glob("*.safetensors")}
    for part in first["cache"]["modalities"].values():
        assert part["bytes"] in on_disk
    assert first["cache"]["bytes"] == first["row"]["cache_bytes"]
    # What the steps of the first epoch really gather, counted from the arrays that the loop is given.
    assembly = assemble(cell, torch.device("cpu"))
    gathered = [
        sum(tensor.nbytes for tensor in assembly.feed.gather(batch.unique).values())
        for batch in epoch_batches(assembly.data.splits, 16, 0, 1)
    ]
    assert first["cache"]["bytes_per_step"] == pytest.approx(np.mean(gathered))


def test_the_rate_of_a_cell_is_of_a_step_as_most_are(cell_record: CellRecord) -> None:
    record, _ = cell_record("frozen")
    compute, row = record["compute"], record["row"]
    assert record["cache"] is None
    assert compute["step_seconds"] == row["step_seconds_median"]
    assert 0 < compute["flops_forward"] <= row["flops_forward"]
    assert compute["model_flops_per_second"] == pytest.approx(
        (compute["flops_forward"] + compute["flops_backward"]) / row["step_seconds_median"]
    )
