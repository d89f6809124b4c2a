"""Tests of the section on the cache: the live twin found from records, and the break-even computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reports.sections.caching import break_even, live_twin, section
from tests.reports.factory import make_run, write_json
from tests.reports.reading import read_comparison, tables


def run_of(path: Path, live: dict[str, Any], cached: dict[str, Any], seeds: tuple[int, ...] = (0,)) -> Path:
    changes = {"iisan": {"epoch_seconds": 10.0, **live}, "iisan-cached": {"epoch_seconds": 2.0, **cached}}
    return make_run(path, ["fft", "iisan", "iisan-cached"], seeds, changes=changes)


def edit(run: Path, name: str, **parts: Any) -> None:
    for file in (run / "cells").glob(f"{name}--*/record.json"):
        record = json.loads(file.read_text())
        for part, values in parts.items():
            record[part] = {**(record[part] or {}), **values}
        write_json(file, record)


def test_break_even_by_hand(tmp_path: Path) -> None:
    comparison = read_comparison(run_of(tmp_path / "run", {}, {}, (0, 1)))
    found = break_even(comparison, "iisan-cached")
    assert found.live == "iisan"
    assert found.epochs == pytest.approx((2.0 / 8, 3.0 / 8))  # the cache of seed 0 took 2 s, that of seed 1 took 3 s
    header, row = tables(section(comparison))[0]
    cells = dict(zip(header, row, strict=True))
    half = 12.706 * 0.5 / 8  # t of one degree of freedom times half the distance of two values
    assert cells["Paid for after"] == f"0.3 ± {half:.1f} epochs"
    assert cells["Built in"] == "2.50 s ± 6.35 s"
    assert (cells["Live twin"], cells["Epoch, live"], cells["Epoch, cached"]) == ("iisan", "10.0 s", "2.00 s")
    assert (cells["On disk"], cells["Read per step"], cells["Reused"]) == ("1.20 MiB", "110 KiB", "yes")


def test_one_seed_has_one_decimal(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {"epoch_seconds": 2.7}, {})
    edit(run, "iisan-cached", cache={"seconds": 24.68, "reused": False})
    header, row = tables(section(read_comparison(run)))[0]
    cells = dict(zip(header, row, strict=True))
    assert cells["Paid for after"] == "35.3 epochs"
    assert cells["Reused"] == "no"


def test_a_cache_that_does_not_pay(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {}, {"epoch_seconds": 10.0}, (0, 3))
    text = section(read_comparison(run))
    assert tables(text)[0][1][-2] == ""
    unknown = "The epochs after which the cache of iisan-cached saves time are unknown"
    assert f"{unknown}: with seed 0, 3 an epoch from the cache is not faster." in text


def test_without_a_twin(tmp_path: Path) -> None:
    comparison = read_comparison(make_run(tmp_path / "run", ["fft", "lora", "iisan-cached"], [0]))
    text = section(comparison)
    assert tables(text)[0][1][-2] == ""
    assert "the same method with live states is not part of this comparison" in text


def test_a_twin_has_the_same_options(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {}, {})
    edit(run, "iisan-cached", method={"options": {"cached": True, "bottleneck": 16}})
    edit(run, "iisan", method={"options": {"cached": False, "bottleneck": 8}})
    assert live_twin(read_comparison(run), "iisan-cached") is None
    edit(run, "iisan", method={"options": {"bottleneck": 16}})
    assert live_twin(read_comparison(run), "iisan-cached") == "iisan"
    edit(run, "iisan", method={"type": "fft"})
    assert live_twin(read_comparison(run), "iisan-cached") is None


def test_a_cached_method_of_ones_own_has_a_twin_too(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", {}, {})
    edit(run, "iisan-cached", method={"type": "frozen", "options": {"cached": True}})
    edit(run, "fft", method={"type": "frozen"})
    assert live_twin(read_comparison(run), "iisan-cached") == "fft"
    edit(run, "fft", cache={"seconds": 1.0})
    assert live_twin(read_comparison(run), "iisan-cached") is None


def test_other_seeds_give_no_number(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", ["iisan"], [0])
    second = make_run(tmp_path / "b", ["iisan-cached"], [1])
    next((second / "cells").iterdir()).rename(first / "cells" / "other")
    found = break_even(read_comparison(first), "iisan-cached")
    assert (found.live, found.epochs, found.reason) == (
        "iisan",
        (),
        "no seed has all the times that it is computed from",
    )


def test_no_cache_and_records_that_do_not_say(tmp_path: Path) -> None:
    comparison = read_comparison(make_run(tmp_path / "run", ["fft", "lora"], [0]))
    assert section(comparison) == "No method here has a hidden-state cache."
    run = run_of(tmp_path / "old", {}, {})
    for file in (run / "cells").glob("*/record.json"):
        record = json.loads(file.read_text())
        del record["cache"]
        write_json(file, record)
    assert section(read_comparison(run)) == "The records of iisan-cached do not describe their cache."
