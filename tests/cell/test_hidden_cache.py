"""Hidden-state caches of a cell: the process that builds them, its clock, and its precision."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.cell import assemble as assembly
from bench.cell.assemble import assemble, kept_layers, load_data, load_encoders, raw_feed
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell
from bench.config.matrix import build_method
from bench.data.cache import array_cache
from bench.data.cache.location import cache_dir
from bench.models.encoders import Encoder
from bench.training.loop import autocast
from bench.utils import fresh_process
from methods.base import HiddenMethod
from tests.tiny import cell_of

CPU = torch.device("cpu")
REAL_CALL = fresh_process.call
CLOCKS = {"setup_seconds", "step_seconds_median", "epoch_seconds", "train_seconds", "warnings"}
"""Columns that a clock decides, with the warnings on steps of uneven length."""


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_figures_are_equal_with_a_cache_built_just_now_and_one_found(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plan: None
) -> None:
    """The process of the cell loads no encoder before its meters have been read, so they cannot see one."""
    events: list[dict[str, Any]] = []
    load = assembly.load_encoder

    def late(*arguments: Any) -> Encoder:
        assert [event["phase"] for event in events if event["event"] == "phase"][-1] == "attributes"
        return load(*arguments)

    monkeypatch.setattr(fresh_process, "call", REAL_CALL)
    monkeypatch.setattr(assembly, "load_encoder", late)
    cell = cell_of("iisan-cached", model_folders)
    built, found = (run_cell(cell, tmp_path / name, events.append) for name in ("built", "found"))
    assert (built["row"]["status"], found["row"]["status"]) == ("ok", "ok")
    assert (built["cache"]["reused"], found["cache"]["reused"]) == (False, True)
    assert {k: v for k, v in built["row"].items() if k not in CLOCKS | {"peak_rss_bytes"}} == {
        k: v for k, v in found["row"].items() if k not in CLOCKS | {"peak_rss_bytes"}
    }
    assert built["memory"] == found["memory"]
    done = [(event["modality"], event["done"]) for event in events if event["event"] == "cache"]
    assert done == [("text", 0), ("text", 60), ("image", 0), ("image", 60)]


def test_the_clock_starts_when_the_encoder_is_loaded_and_warm(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noted call by call: each modality loads its own encoder alone, and computes once before its first block."""
    calls: list[str] = []
    loaded: list[weakref.ref[Encoder]] = []
    load, states, now = assembly.load_encoder, Encoder.hidden_states, array_cache.perf_counter

    def noted_load(modality: str, *arguments: Any) -> Encoder:
        gc.collect()
        assert not any(encoder() for encoder in loaded), "the encoder of another modality is still there"
        calls.append(f"load {modality}")
        encoder = load(modality, *arguments)
        loaded.append(weakref.ref(encoder))
        return encoder

    def noted_states(encoder: Encoder, inputs: Any, kept: tuple[int, ...]) -> torch.Tensor:
        calls.append(f"compute {encoder.modality}")
        return states(encoder, inputs, kept)

    def noted_clock() -> float:
        calls.append("clock")
        return now()

    monkeypatch.setattr(assembly, "load_encoder", noted_load)
    monkeypatch.setattr(Encoder, "hidden_states", noted_states)
    monkeypatch.setattr(array_cache, "perf_counter", noted_clock)
    assemble(cell_of("iisan-cached", model_folders), CPU)
    assert [call for modality in ("text", "image") for call in one_modality(modality)] == calls


def one_modality(modality: str) -> list[str]:
    """Loading, warming up, and a block of all 60 items."""
    compute = f"compute {modality}"
    return [f"load {modality}", compute, "clock", compute, "clock"]


def live_states(cell: Cell, precision: str) -> dict[str, torch.Tensor]:
    """States of all items as a step of the uncached method computes them."""
    data = load_data(cell)
    method = build_method(cell.method, "t")
    assert isinstance(method, HiddenMethod)
    kept, (feed, _) = kept_layers(method, data.sources), raw_feed(data, cell)
    inputs = feed.gather(np.arange(data.n_items))
    with torch.no_grad(), autocast(precision, CPU):
        return {
            m: encoder.eval().hidden_states(inputs, kept[m]).float()
            for m, encoder in load_encoders(data.sources, cell, CPU).items()
        }


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_states_are_computed_in_the_precision_of_the_cell(precision: str, model_folders: dict[str, Path]) -> None:
    training = {"width": 16, "cache_dtype": "float32"}
    cell = cell_of("iisan-cached", model_folders, precision=precision, training=training)
    cached = {m: torch.tensor(np.asarray(c.states)) for m, c in assemble(cell, CPU).caches.items()}
    other = live_states(cell, "fp32" if precision == "bf16" else "bf16")
    for modality, live in live_states(cell, precision).items():
        assert torch.equal(cached[modality], live)
        assert not torch.equal(cached[modality], other[modality])


def test_precision_and_kernels_name_the_cache(model_folders: dict[str, Path]) -> None:
    def reused(**changes: Any) -> set[bool]:
        return {c.reused for c in assemble(cell_of("iisan-cached", model_folders, **changes), CPU).caches.values()}

    assert reused() == {False}
    assert reused(precision="bf16") == {False}
    assert reused(training={"width": 16, "cudnn_attention": True}) == {False}
    assert reused() == reused(precision="bf16") == {True}


def test_a_damaged_cache_is_built_again_and_the_cell_says_so(model_folders: dict[str, Path]) -> None:
    cell = cell_of("iisan-cached", model_folders)
    text = assemble(cell, CPU).caches["text"]
    (damaged,) = (path for path in _files() if path.stat().st_size == text.size and b"text" in path.read_bytes()[:4096])
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = assemble(cell, CPU).caches
    assert {m: (cache.reused, bool(cache.warning)) for m, cache in again.items()} == {
        "text": (False, True),
        "image": (True, False),
    }
    assert "built again" in again["text"].warning


def _files() -> list[Path]:
    return list((cache_dir() / "hidden").glob("*.safetensors"))
