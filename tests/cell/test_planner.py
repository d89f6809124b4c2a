"""Plans against what cells measure, against counts and sizes by hand, and the search for the largest batch."""

from __future__ import annotations

import dataclasses
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.cell.planner import DataBatches, FullBatches, Plan, Planner, largest_batch_size, step_work
from bench.config.cells import cells
from bench.config.matrix import parse, read_preset
from bench.measure.flops import Flops
from bench.measure.memory import MemoryAccount
from methods.registry import REGISTRY
from tests.conftest import CellRecord
from tests.tiny import FamilyFolder, cell_of, measured, planned

FLOAT = 4


@pytest.mark.parametrize("name", REGISTRY)
def test_the_plan_of_a_cell_is_its_record_to_the_byte(name: str, cell_record: CellRecord) -> None:
    record, _ = cell_record(name)
    plan, row = record["plan"], record["row"]
    assert row["status"] == "ok", record
    assert {part: plan[part] for part in record["memory"] if part != "peak_bytes"} == {
        part: size for part, size in record["memory"].items() if part != "peak_bytes"
    }
    assert plan["peak_memory_bytes"] == record["memory"]["peak_bytes"]
    columns = ("peak_memory_bytes", "flops_forward", "flops_backward", "trainable_params", "total_params")
    assert {column: plan[column] for column in columns} == {column: row[column] for column in columns}
    if REGISTRY[name].preset.get("cached"):
        header = 4096  # of a cache file, one per modality
        assert plan["cache_bytes"] == row["cache_bytes"] - 2 * header
    else:
        assert plan["cache_bytes"] is None


@pytest.mark.parametrize("name", [method["name"] for method in read_preset("default")["methods"]])
@pytest.mark.slow
def test_the_default_matrix(name: str) -> None:
    """Its encoders and options, on a smaller shop, in small batches."""
    own = {"methods": read_preset("default")["methods"], "budget": {"steps": 1, "batch_size": 8}}
    matrix = parse(read_preset("smoke") | own, "default")
    cell = next(cell for cell in cells(matrix, "cpu") if cell.method.name == name)
    plan = planned(cell)
    assert (plan.memory, plan.flops) == measured(cell)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"precision": "bf16"}),
        ("fft", {"precision": "fp16"}),
        ("adapter", {"training": {"width": 16, "attention": "eager"}}),
        ("prefix", {"training": {"width": 16, "attention": "eager"}, "precision": "bf16"}),
        ("lora", {"modality": ["text"]}),
        ("iisan", {"modality": ["image"]}),
        ("frozen", {"training": {"width": 16, "cache_dtype": "float32"}}),
        ("bitfit", {"budget": {"steps": 1, "batch_size": 39}}),
        ("iisan-cached", {"budget": {"steps": 1, "batch_size": 64}}),  # more than there are users
    ],
)
@pytest.mark.slow
def test_other_cells(name: str, changes: dict[str, Any], model_folders: dict[str, Path]) -> None:
    cell = cell_of(name, model_folders, **changes)
    plan = planned(cell)
    assert (plan.memory, plan.flops) == measured(cell)


@pytest.mark.parametrize("name", ["fft", "prefix", "iisan"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.slow
def test_titles_of_one_length_leave_no_mask(name: str, attention: str, model_folders: dict[str, Path]) -> None:
    cell = cell_of(
        name,
        model_folders,
        dataset={"items": 60, "users": 40, "max_tokens": 4},
        training={"width": 16, "attention": attention},
    )
    workload = DataBatches.of(cell)
    assert not workload.sizes(16).padded
    plan = Planner(cell).plan(workload, 16)
    assert (plan.memory, plan.flops) == measured(cell)


def test_other_families(model_folders: dict[str, Path]) -> None:
    pair = [{"text": str(model_folders["distilbert"]), "image": str(model_folders["deit"])}]
    cell = cell_of("lora", model_folders, backbones=pair)
    plan = planned(cell)
    assert (plan.memory, plan.flops) == measured(cell)


@pytest.mark.parametrize(
    ("text", "image", "name"),
    [
        ("gpt2", "swin", "iisan"),
        ("llama", "convnext", "adapter"),
        ("albert", "dinov2", "lora"),
        ("modernbert", "clip-vision", "prefix"),
        ("siglip-text", "siglip-vision", "fft"),
        ("deberta-v2", "deit", "iisan-cached"),
    ],
)
@pytest.mark.slow
def test_families_of_other_makes(text: str, image: str, name: str, family_folder: FamilyFolder) -> None:
    pair = [{"text": str(family_folder(text)), "image": str(family_folder(image))}]
    cell = cell_of(name, {"bert": Path(), "vit": Path()}, backbones=pair)
    plan = planned(cell)
    assert (plan.memory, plan.flops) == measured(cell)


def test_frozen_states_from_the_cache(model_folders: dict[str, Path]) -> None:
    cell = cell_of("frozen", model_folders, methods=[{"name": "frozen", "cached": True}])
    plan = planned(cell)
    assert (plan.memory, plan.flops) == measured(cell)
    assert plan.cache_bytes == 60 * (1 * 24 + 1 * 24) * 2


def test_one_planner_plans_any_number_of_batches(model_folders: dict[str, Path]) -> None:
    cell = cell_of("lora", model_folders, modality=["text"])
    workload, planner = DataBatches.of(cell), Planner(cell)
    plans = [planner.plan(workload, users) for users in (16, 4, 16)]
    assert plans[0] == plans[2] != plans[1]
    assert planner.peak(workload, 4) == plans[1].memory.peak_bytes
    assert Planner(cell).plan(workload, 4) == plans[1]


def test_planning_leaves_the_callers_random_numbers_alone(model_folders: dict[str, Path]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    Planner(cell_of("adapter", model_folders))
    assert torch.rand(1) == expected


def test_a_full_batch_has_every_item_once_and_no_padding() -> None:
    sizes = FullBatches(max_tokens=30).sizes(32)
    assert dataclasses.astuple(sizes) == (32, 32 * 11, 32 * 10, 30, False)


class TestPaper:
    """BERT-base and ViT-base/16, 32 users, eager attention, bfloat16: against sums by hand and published figures."""

    D, LAYERS, ITEMS, TOKENS, PATCHES = 768, 12, 352, 30, 196

    @staticmethod
    @cache
    def plan(name: str) -> Plan:
        cell = next(cell for cell in cells(parse(read_preset("paper"), "paper"), "cpu") if cell.method.name == name)
        return Planner(cell).plan(FullBatches(cell.dataset.max_tokens), 32)

    def test_full_fine_tuning(self) -> None:
        plan = self.plan("fft")
        assert plan.memory.peak_bytes == pytest.approx(47e9, rel=0.06), "published: 47 GB"
        assert plan.trainable_params == plan.total_params == 194_897_216
        buffers = 2 * 512 * 8 + 2 * 3 * FLOAT + 2 * 10 * 10  # BERT's positions and types, mean and std, causal masks
        assert plan.memory.parameters == 194_897_216 * FLOAT + buffers
        moments, counts = 2 * 194_897_216 * FLOAT, FLOAT
        assert 0 < plan.memory.optimizer - moments < 500 * counts, "one count per tensor beside the moments"

    def test_its_products_by_hand(self) -> None:
        plan = self.plan("fft")
        forward = 0
        for length in (self.TOKENS, self.PATCHES + 1):
            weights = 4 * self.D**2 + 2 * self.D * 4 * self.D
            forward += 2 * self.LAYERS * self.ITEMS * length * (weights + 2 * length * self.D)
        patches = 2 * self.ITEMS * self.PATCHES * self.D * (3 * 16 * 16)
        # The head, the user encoder and the scores of 320 positions are thousandths of it.
        assert plan.flops.forward == pytest.approx(forward + patches, rel=0.002)
        # Backward: a product each for the input and for the weight; pixels need no gradient.
        assert plan.flops.backward == pytest.approx(2 * forward + patches, rel=0.002)

    def test_the_cached_method(self) -> None:
        plan = self.plan("iisan-cached")
        assert plan.trainable_params == plan.total_params == 4_113_877
        assert plan.cache_bytes == 20_314 * 2 * 7 * self.D * 2
        assert plan.memory.cache == 0, "rows are gathered on the host; the cache itself never lies on the card"
        assert plan.memory.peak_bytes < 3e9, "published: 3 GB"

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "parameters"),
        [
            ("adapter", 4_965_440),
            ("lora", 796_736),
            ("prefix", 796_736),
            ("bitfit", 411_968),
            ("frozen", 206_912),
            ("iisan", 4_113_877),
        ],
    )
    def test_the_other_methods(self, name: str, parameters: int) -> None:
        plan, full = self.plan(name), self.plan("fft")
        assert plan.trainable_params == parameters
        if name in ("adapter", "lora"):
            assert 0.8 * 39e9 <= plan.memory.peak_bytes <= 1.2 * 37e9, "published: 37 to 39 GB"
        if name in ("frozen", "iisan"):
            assert plan.memory.peak_bytes <= (1 - 0.82) * full.memory.peak_bytes, "published: 82 % less"
            assert plan.flops.backward < full.flops.backward / 1000
        assert plan.memory.peak_bytes < full.memory.peak_bytes


class TestWork:
    """What the roofline is given, for a model that can be counted by hand."""

    def test_by_hand(self) -> None:
        model = nn.Sequential(nn.Embedding(1000, 4), nn.Linear(4, 8), nn.Linear(8, 2))
        model[1].requires_grad_(False)
        account = MemoryAccount(0, 0, 0, 0, activations=500, cache=0, rest=0)
        forward, backward, update = step_work(model, account, Flops(70, 90))
        linear, head, table = 4 * 8 + 8, 8 * 2 + 2, 1000 * 4
        assert forward == (70, (linear + head) * FLOAT + 500), "a lookup reads rows, not the table"
        assert backward == (90, 500 + (head + table) * FLOAT)
        # Clipping: a read for the norm, a read and a write. Adam: four reads, three writes.
        assert update == (0, (head + table) * (3 + 7) * FLOAT)


class TestLargestBatch:
    """The search against trying every size."""

    @pytest.mark.parametrize("seed", range(30))
    def test_against_every_size(self, seed: int) -> None:
        draw = random.Random(seed)
        steps = [draw.choice((0, 1, 5, 30)) for _ in range(300)]
        curve = 10 + np.cumsum(steps) * draw.choice((1, 3)) + np.arange(300) ** draw.choice((0, 1, 2))
        limit = draw.randrange(0, int(curve.max() * 1.2))
        start = draw.randrange(2, 300)
        found = largest_batch_size(lambda n: int(curve[n]), limit, 299, {start: int(curve[start])})
        fitting = [n for n in range(2, 300) if curve[n] <= limit]
        assert found == (fitting[-1] if fitting else None)

    def test_a_straight_line_takes_four_looks(self) -> None:
        asked: list[int] = []

        def peak(users: int) -> int:
            asked.append(users)
            return 1000 + 7 * users

        assert largest_batch_size(peak, 1000 + 7 * 500 + 3, 65_536, {32: 1000 + 7 * 32}) == 500
        assert len(asked) <= 4, asked

    def test_a_curve_that_bends_takes_few(self) -> None:
        asked: list[int] = []

        def peak(users: int) -> int:
            asked.append(users)
            return users**3

        assert largest_batch_size(peak, 1000**3, 65_536, {32: 32**3}) == 1000
        assert len(asked) < 40, asked

    def test_the_ends(self) -> None:
        assert largest_batch_size(lambda n: n, 10**9, 50, {8: 8}) == 50
        assert largest_batch_size(lambda n: n, 2, 50, {8: 8}) == 2
        assert largest_batch_size(lambda n: n, 1, 50, {8: 8}) is None

    def test_the_answer_fits_and_one_more_does_not(self, model_folders: dict[str, Path]) -> None:
        cell = cell_of("iisan-cached", model_folders)
        planner, workload = Planner(cell), FullBatches(9, 100)
        known = {8: planner.plan(workload, 8).memory.peak_bytes}
        limit = 5 * known[8]
        found = largest_batch_size(lambda users: planner.peak(workload, users), limit, 1000, known)
        assert found is not None
        assert 8 < found < 1000
        fits, beyond = (Planner(cell).plan(workload, users).memory.peak_bytes for users in (found, found + 1))
        assert fits <= limit < beyond
