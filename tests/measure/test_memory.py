"""The live-tensor account against sums by hand, torch's MemTracker, fake tensors and itself."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Adam, Optimizer
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from bench.measure.memory import (
    MemoryAccount,
    account,
    allocator_peaks,
    reset_allocator_peaks,
    return_unused_memory,
)
from bench.records.columns import MEMORY_PARTS
from tests.measure.tracker import Tracker

FLOAT = 4


def parts(result: MemoryAccount) -> int:
    return sum(getattr(result, part) for part in MEMORY_PARTS)


def test_the_account_has_the_declared_parts() -> None:
    assert [field.name for field in fields(MemoryAccount)] == ["peak_bytes", *MEMORY_PARTS]


class Pair(nn.Module):
    """A small BERT and a small ViT and a scoring head, as the harness trains them."""

    def __init__(self, attention: str) -> None:
        super().__init__()
        text = BertConfig(
            vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=16, attn_implementation=attention,
        )  # fmt: skip
        image = ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16,
            patch_size=8, attn_implementation=attention,
        )  # fmt: skip
        self.text = BertModel(text, add_pooling_layer=False)
        self.image = ViTModel(image, add_pooling_layer=False)
        self.head = nn.Linear(64, 8)

    def forward(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> Tensor:
        text = self.text(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        image = self.image(pixel_values=pixels).last_hidden_state[:, 0]
        vectors: Tensor = self.head(torch.cat((text, image), 1))
        return vectors


def batch() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.zeros(5, 9, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0  # transformers drops a mask without padding, unless it cannot look inside (fake tensors)
    return ids, mask, torch.zeros(5, 3, 16, 16)


def step_of(
    model: nn.Module, optimizer: Optimizer, inputs: tuple[Tensor, ...], half: bool = False
) -> Callable[[], None]:
    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            vectors = model(*inputs)
            loss = nn.functional.cross_entropy(vectors @ vectors.T, torch.arange(len(vectors)))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


@cache
def pair_account(attention: str, *, frozen: bool = False, half: bool = False, fake: bool = False) -> MemoryAccount:
    if fake:
        with torch.device("meta"):
            model = Pair(attention)
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _account_of(model.to_empty(device="cpu"), frozen, half)
    torch.manual_seed(0)
    return _account_of(Pair(attention), frozen, half)


def _account_of(model: nn.Module, frozen: bool, half: bool) -> MemoryAccount:
    if frozen:
        for encoder in (model.text, model.image):
            encoder.requires_grad_(False)
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    inputs = batch()
    step = step_of(model, optimizer, inputs, half)
    return account(step, modules=[model], optimizer=optimizer, known={"rest": inputs})


def test_sums_by_hand_when_all_gradients_and_the_state_of_adam_are_there() -> None:
    # Wide layers and two rows of inputs: the peak is the end of the second backward.
    model = nn.Sequential(nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 50), nn.BatchNorm1d(50), nn.Linear(50, 1))
    optimizer = Adam(model.parameters(), fused=True)
    inputs = torch.ones(2, 100)

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).sum().backward()
        optimizer.step()

    result = account(step, modules=[model], optimizer=optimizer, known={"rest": [inputs]})
    weights = 100 * 200 + 200 + 200 * 50 + 50 + 2 * 50 + 50 + 1
    buffers = 2 * 50 * FLOAT + 8  # running mean and variance, and a count in 64 bit
    tensors = 8
    assert result.parameters == weights * FLOAT + buffers
    assert result.gradients == weights * FLOAT
    assert result.optimizer == 2 * weights * FLOAT + tensors * FLOAT
    assert result.activations == 0, "all of the graph has been used up"
    assert result.rest == inputs.nbytes + 2 * 200 * FLOAT + 2 * FLOAT, "gradient of the ReLU; the loss and its gradient"
    assert parts(result) == result.peak_bytes


def test_sums_by_hand_in_the_middle_of_backward() -> None:
    # loss = sum(sigmoid(x w)): backward needs x, which was declared, and the sigmoid's result. The peak is the
    # gradient of x w being made from the sigmoid's result.
    w = nn.Linear(8, 8, bias=False)
    x = torch.ones(1000, 8)
    big = 1000 * 8 * FLOAT

    def step() -> None:
        w.zero_grad()
        w(x).sigmoid().sum().backward()

    result = account(step, modules=[w], known={"rest": [x]})
    assert result == MemoryAccount(
        peak_bytes=64 * FLOAT + 3 * big + 2 * FLOAT,
        parameters=64 * FLOAT,
        gradients=0,
        optimizer=0,
        activations=big,
        cache=0,
        rest=2 * big + 2 * FLOAT,
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_peak_equals_memtracker(attention: str, frozen: bool) -> None:
    torch.manual_seed(0)
    model = Pair(attention)
    if frozen:
        model.text.requires_grad_(False)
        model.image.requires_grad_(False)
    optimizer = Adam([p for p in model.parameters() if p.requires_grad], fused=True)
    inputs = batch()
    step = step_of(model, optimizer, inputs)
    tracker = Tracker()
    tracker.track_external(model, optimizer, *inputs)
    with tracker:
        for _ in range(2):
            step()
            tracker.reset_mod_stats()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    ours = pair_account(attention, frozen=frozen)
    assert ours.peak_bytes == theirs["Total"]
    assert parts(ours) == ours.peak_bytes
    own = sum(p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    assert ours.parameters == own


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("frozen", "half"), [(False, False), (True, False), (False, True)])
def test_fake_tensors_give_the_same_account(attention: str, frozen: bool, half: bool) -> None:
    measured = pair_account(attention, frozen=frozen, half=half)
    assert pair_account(attention, frozen=frozen, half=half, fake=True) == measured


def test_two_runs_give_the_same_account() -> None:
    assert pair_account.__wrapped__("eager") == pair_account("eager")


def test_garbage_in_cycles_does_not_depend_on_the_collector() -> None:
    def step() -> None:
        for _ in range(50):
            cycle: list[object] = [torch.zeros(100)]
            cycle.append(cycle)

    before = gc.get_threshold()
    results = []
    try:
        for threshold in (3, 100_000):
            gc.set_threshold(threshold)
            results.append(account(step, modules=[]))
    finally:
        gc.set_threshold(*before)
    assert results[0] == results[1]
    assert results[0].peak_bytes == 50 * 100 * FLOAT


def test_frozen_backbones_keep_no_activations_and_no_gradients() -> None:
    full, frozen = pair_account("eager"), pair_account("eager", frozen=True)
    head = 64 * 8 * FLOAT + 8 * FLOAT
    assert frozen.parameters == full.parameters
    assert frozen.optimizer == 2 * head + 2 * FLOAT
    assert frozen.activations < full.activations / 10


def test_views_and_in_place_changes_share_their_bytes() -> None:
    def step() -> None:
        base = torch.zeros(10, 10)
        view = base.view(100)[3:7]
        view.add_(1)
        base.t().mul_(2).relu_()
        base[0].unsqueeze(0).expand(5, 10)

    assert account(step, modules=[]).peak_bytes == 100 * FLOAT


def test_a_storage_that_grows_counts_with_its_size_of_the_moment() -> None:
    def step() -> None:
        out = torch.zeros(2)
        out.resize_(100)
        out.resize_(300)

    result = account(step, modules=[])
    assert result.peak_bytes == 300 * FLOAT
    assert parts(result) == result.peak_bytes


def test_an_input_that_nobody_declared_counts_when_backward_needs_it() -> None:
    weight = nn.Linear(1000, 1, bias=False)
    scale = torch.ones(1, 1000)

    def step() -> None:
        (weight.weight * scale).sum()

    result = account(step, modules=[weight])
    assert result.activations == scale.nbytes
    assert parts(result) == result.peak_bytes


def test_state_that_comes_from_outside_does_not_meet_what_has_just_died() -> None:
    model = nn.Linear(1, 1, bias=False)
    optimizer = Adam(model.parameters())
    state = torch.ones(1000)

    def step() -> None:
        torch.zeros(300)
        optimizer.state[model.weight]["from outside"] = state
        optimizer.step()

    result = account(step, modules=[model], optimizer=optimizer, steps=1)
    assert result == MemoryAccount(1001 * FLOAT, FLOAT, 0, 1000 * FLOAT, 0, 0, 0)


def test_what_dies_makes_room() -> None:
    def step() -> None:
        for _ in range(10):
            torch.zeros(50)

    assert account(step, modules=[]).peak_bytes == 50 * FLOAT


def test_the_cache_is_its_own_part() -> None:
    cache = torch.zeros(1000, 16)
    head = nn.Linear(16, 1)
    rows = torch.arange(4)

    def step() -> None:
        head(cache[rows]).sum().backward()
        head.zero_grad()

    result = account(step, modules=[head], known={"cache": [cache], "rest": [rows]})
    assert result.cache == cache.nbytes
    assert result.activations == 4 * 16 * FLOAT, "the gathered rows, saved for the weight's gradient"


def test_a_mapped_file_counts_in_full_unless_it_is_ignored(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "states.bin", dtype=np.float32, mode="w+", shape=(500, 8))
    mapped = torch.from_numpy(array)

    def step() -> None:
        mapped[3:5].sum()

    assert account(step, modules=[]).peak_bytes == 500 * 8 * FLOAT + FLOAT
    assert account(step, modules=[], ignored=[mapped]).peak_bytes == FLOAT


def test_other_devices_do_not_count() -> None:
    def step() -> None:
        torch.zeros(100, device="meta")
        torch.zeros(10)

    assert account(step, modules=[]).peak_bytes == 10 * FLOAT
    assert account(step, modules=[], device=torch.device("meta")).peak_bytes == 100 * FLOAT


def test_state_from_before_is_counted_from_the_start() -> None:
    model = nn.Linear(30, 30, bias=False)
    optimizer = Adam(model.parameters(), fused=True)
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    result = account(lambda: None, modules=[model], optimizer=optimizer)
    weights = 900 * FLOAT
    assert result == MemoryAccount(4 * weights + FLOAT, weights, weights, 2 * weights + FLOAT, 0, 0, 0)


def test_a_failing_step_leaves_no_hooks_behind() -> None:
    model = nn.Linear(2, 2)
    optimizer = Adam(model.parameters())

    def step() -> None:
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        account(step, modules=[model], optimizer=optimizer)
    assert gc.isenabled()
    assert not optimizer._optimizer_step_post_hooks
    assert not model.weight._post_accumulate_grad_hooks


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="steps must be positive"):
        account(lambda: None, modules=[], steps=0)
    with pytest.raises(ValueError, match="'lunch'"):
        account(lambda: None, modules=[], known={"lunch": [torch.zeros(1)]})  # type: ignore[dict-item]


def test_the_cpu_has_no_caching_allocator() -> None:
    reset_allocator_peaks(torch.device("cpu"))
    assert allocator_peaks(torch.device("cpu")) == (None, None)


@pytest.mark.gpu
def test_a_real_card_gives_the_account_of_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda:0")

    def on(place: torch.device) -> MemoryAccount:
        model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 64)).to(place)
        optimizer = Adam(model.parameters(), fused=True)
        inputs = torch.ones(128, 256, device=place)

        def step() -> None:
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()

        step()
        reset_allocator_peaks(place)
        return account(step, modules=[model], optimizer=optimizer, known={"rest": [inputs]})

    on_card = on(device)
    assert on_card == on(torch.device("cpu"))
    allocated, reserved = allocator_peaks(device)
    assert allocated is not None
    assert reserved is not None
    assert on_card.peak_bytes <= allocated <= reserved


def test_garbage_is_collected_before_the_allocator_gives_blocks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the other order the blocks of what is collected would stay."""
    calls: list[str] = []
    monkeypatch.setattr("gc.collect", lambda: calls.append("collect"))
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: calls.append("empty"))
    return_unused_memory(torch.device("cuda:0"))
    assert calls == ["collect", "empty"]
