"""The step clock against a clock that the test turns by hand, and against sleeps."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bench.measure.clock import StepClock
from bench.records.columns import PHASES
from tests.measure.hand import Hand

CPU = torch.device("cpu")


class Busy(nn.Module):
    """A module whose forward takes as long as the test says, alone and around its child."""

    def __init__(self, hand: Hand, seconds: float, child: nn.Module | None = None) -> None:
        super().__init__()
        self.hand, self.seconds, self.child = hand, seconds, child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hand.turn(self.seconds)
        return x if self.child is None else self.child(x)


def train_step(clock: StepClock, hand: Hand, number: int, forward: Callable[[], object]) -> None:
    with clock.step(1, number):
        with clock.phase("data"):
            hand.turn(1)
        with clock.phase("transfer"):
            hand.turn(2)
        hand.turn(0.25)
        with clock.phase("forward"):
            hand.turn(0.5)
            forward()
            hand.turn(0.5)
        with clock.phase("backward"):
            hand.turn(4)
        with clock.phase("optimizer"):
            hand.turn(8)


def test_phases_are_exclusive_and_the_backbone_is_taken_out_of_forward() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    text, image = Busy(hand, 16), Busy(hand, 32)
    clock.watch(text)
    clock.watch(image)
    x = torch.zeros(1)

    def forward() -> None:
        text(x)
        hand.turn(3)
        image(x)

    train_step(clock, hand, 7, forward)
    (row,) = clock.rows
    assert row == pytest.approx(
        {
            "epoch": 1,
            "step": 7,
            "seconds": 1 + 2 + 0.25 + 1 + 3 + 48 + 4 + 8,
            "data": 1,
            "transfer": 2,
            "backbone": 48,
            "forward": 1 + 3,
            "backward": 4,
            "optimizer": 8,
        }
    )
    assert list(row) == ["epoch", "step", "seconds", *PHASES]


def test_a_watched_module_inside_a_watched_module_is_counted_once() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    inner = Busy(hand, 16)
    outer = Busy(hand, 5, inner)
    clock.watch(inner)
    clock.watch(outer)
    train_step(clock, hand, 0, lambda: outer(torch.zeros(1)))
    assert clock.rows[0]["backbone"] == pytest.approx(21)
    assert clock.rows[0]["forward"] == pytest.approx(1)


def test_backbones_run_outside_the_forward_phase_are_left_where_they_are() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    module = Busy(hand, 16)
    clock.watch(module)
    module(torch.zeros(1))
    with clock.step(0, 0):
        module(torch.zeros(1))
        with clock.phase("backward"):
            module(torch.zeros(1))
    assert clock.rows[0]["backbone"] is None
    assert clock.rows[0]["backward"] == pytest.approx(16)
    assert clock.rows[0]["seconds"] == pytest.approx(32)


def test_a_phase_that_was_not_entered_is_unmeasured_and_not_zero() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    with clock.step(3, 9), clock.phase("optimizer"):
        pass
    (row,) = clock.rows
    assert (row["epoch"], row["step"], row["seconds"], row["optimizer"]) == (3, 9, 0, 0)
    assert [row[name] for name in PHASES if name != "optimizer"] == [None] * 5


def test_a_phase_entered_twice_adds_up() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    with clock.step(0, 0):
        for seconds in (1, 10):
            with clock.phase("forward"):
                hand.turn(seconds)
    assert clock.rows[0]["forward"] == pytest.approx(11)


def test_removed_hooks_book_nothing() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    module = Busy(hand, 16)
    with clock.watch(module):
        train_step(clock, hand, 0, lambda: module(torch.zeros(1)))
    train_step(clock, hand, 1, lambda: module(torch.zeros(1)))
    assert [row["backbone"] for row in clock.rows] == [pytest.approx(16), None]
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def test_a_step_left_by_an_exception_adds_no_row_and_does_no_harm_to_the_next() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)

    class Failing(Busy):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hand.turn(100)
            raise ValueError("lost")

    module = Failing(hand, 0)
    clock.watch(module)
    with pytest.raises(ValueError, match="lost"):
        train_step(clock, hand, 0, lambda: module(torch.zeros(1)))
    assert clock.rows == []
    train_step(clock, hand, 1, lambda: None)
    assert clock.rows[0]["forward"] == pytest.approx(1)
    assert clock.rows[0]["backbone"] is None


def test_a_module_that_fails_and_is_caught_does_not_keep_the_backbone_running() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)

    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hand.turn(2)
            raise ValueError("lost")

    module = Failing()
    clock.watch(module)

    def forward() -> None:
        with pytest.raises(ValueError, match="lost"):
            module(torch.zeros(1))
        hand.turn(5)

    train_step(clock, hand, 0, forward)
    assert clock.rows[0]["backbone"] == pytest.approx(2)
    assert clock.rows[0]["forward"] == pytest.approx(6)


def test_clear_drops_the_warm_up() -> None:
    hand = Hand()
    clock = StepClock(CPU, now=hand)
    for number in range(4):
        train_step(clock, hand, number, lambda: None)
        if number == 1:
            clock.clear()
    assert [row["step"] for row in clock.rows] == [2, 3]


def test_misuse_is_refused() -> None:
    clock = StepClock(CPU)
    with pytest.raises(RuntimeError, match="outside a step"), clock.phase("forward"):
        pass
    with pytest.raises(RuntimeError, match="inside another step"), clock.step(0, 0), clock.step(0, 1):
        pass
    with pytest.raises(ValueError, match="unknown phase 'lunch'"):
        clock.phase("lunch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'meta'"):
        StepClock(torch.device("meta"))


def test_a_clock_that_is_off_reads_no_clock_and_leaves_no_hooks() -> None:
    def never() -> int:
        raise AssertionError("the clock was read")

    clock = StepClock(CPU, enabled=False, now=never)
    module = nn.Linear(2, 2)
    with clock.watch(module), clock.step(0, 0), clock.phase("forward"):
        module(torch.zeros(1, 2))
        assert not module._forward_hooks
    assert clock.rows == []
    StepClock(torch.device("cuda"), enabled=False)  # needs no card either


def test_real_time_on_the_cpu() -> None:
    clock = StepClock(CPU)
    with clock.step(0, 0):
        with clock.phase("data"):
            time.sleep(0.02)
        with clock.phase("forward"):
            time.sleep(0.03)
    (row,) = clock.rows
    data, forward, seconds = row["data"], row["forward"], row["seconds"]
    assert data is not None
    assert forward is not None
    assert seconds is not None
    assert 0.02 <= data < 0.2
    assert 0.03 <= forward < 0.2
    assert 0 <= seconds - data - forward < 0.01
