"""The step clock against a clock that the test turns by hand, a simulated stream, sleeps and a real card."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bench.measure.clock import PHASES, Row, StepClock, drift, step_warnings, summary

CPU = torch.device("cpu")


class Hand:
    """A clock in nanoseconds that stands still until the test turns it."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now

    def turn(self, seconds: float) -> None:
        self.now += round(seconds * 1e9)


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
    with pytest.raises(ValueError, match="no phase is called 'lunch'"):
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


class Stream:
    """A device that works through a queue behind the host: the host is at `hand`, the device at `free`."""

    def __init__(self, hand: Hand) -> None:
        self.hand, self.free = hand, 0

    def launch(self, seconds: float) -> None:
        self.free = max(self.free, self.hand.now) + round(seconds * 1e9)


class Event:
    """Stamped when the device reaches it, readable only after the host has waited for the device."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def record(self, stream: Stream) -> None:
        self.at = max(stream.free, stream.hand.now)

    def elapsed_time(self, other: Event) -> float:
        assert self.cuda.stream.hand.now >= other.at, "read before the device had reached it"
        return (other.at - self.at) / 1e6


class FakeCuda:
    def __init__(self, hand: Hand) -> None:
        self.stream, self.events, self.synchronisations = Stream(hand), 0, 0

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        self.events += 1
        return Event(self)

    def current_stream(self, device: torch.device) -> Stream:
        assert device.type == "cuda"
        return self.stream

    def synchronize(self, device: torch.device) -> None:
        self.synchronisations += 1
        self.stream.hand.now = max(self.stream.hand.now, self.stream.free)


def test_cuda_phases_follow_the_stream_with_one_synchronisation_per_step() -> None:
    hand = Hand()
    cuda = FakeCuda(hand)
    clock = StepClock(torch.device("cuda:0"), now=hand, cuda=cuda)

    class Kernel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            cuda.stream.launch(16)
            return x

    module = Kernel()
    clock.watch(module)
    cuda.stream.launch(1000)  # work of an evaluation that is still in the queue
    hand.turn(999)
    for number in range(3):
        with clock.step(1, number):
            with clock.phase("data"):
                hand.turn(5)
            with clock.phase("transfer"):
                cuda.stream.launch(2)
            with clock.phase("forward"):
                cuda.stream.launch(1)
                module(torch.zeros(1))
                cuda.stream.launch(2)
            with clock.phase("backward"):
                cuda.stream.launch(32)
            with clock.phase("optimizer"):
                cuda.stream.launch(4)
    assert cuda.synchronisations == 3
    assert cuda.events <= 12, "events serve again from step to step"
    assert clock.rows[2] == pytest.approx(
        {
            "epoch": 1,
            "step": 2,
            "seconds": 5 + 2 + 1 + 16 + 2 + 32 + 4,
            "data": 5,
            "transfer": 2,
            "backbone": 16,
            "forward": 3,
            "backward": 32,
            "optimizer": 4,
        }
    )
    # In the first step 1 s of the wait for data passes while the device still works on what came before.
    assert clock.rows[0]["seconds"] == pytest.approx(62 - 1)


def test_waiting_for_data_inside_a_cuda_phase_is_read_from_the_hosts_clock() -> None:
    hand = Hand()
    cuda = FakeCuda(hand)
    clock = StepClock(torch.device("cuda:0"), now=hand, cuda=cuda)
    with clock.step(0, 0), clock.phase("forward"):
        cuda.stream.launch(2)
        with clock.phase("data"):
            hand.turn(5)
        cuda.stream.launch(1)
    (row,) = clock.rows
    # The device works on while the host waits, so the two overlap and add up to more than the step.
    assert (row["data"], row["forward"], row["seconds"]) == pytest.approx((5, 3, 6))


@pytest.mark.gpu
def test_a_real_card() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device = torch.device("cuda:0")
    clock = StepClock(device)
    weight = nn.Linear(4096, 4096, device=device)
    clock.watch(weight)
    x = torch.randn(4096, 4096, device=device)
    for number in range(5):
        if number == 2:
            clock.clear()
        with clock.step(0, number):
            with clock.phase("data"):
                time.sleep(0.01)
            with clock.phase("forward"):
                loss = weight(x).square().mean()
            with clock.phase("backward"):
                loss.backward()
    begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(10):
        weight(x)
    end.record()
    end.synchronize()
    alone = begin.elapsed_time(end) / 1e4
    assert len(clock.rows) == 3
    for row in clock.rows:
        parts = [value for name in PHASES if (value := row[name]) is not None]
        assert row["data"] == pytest.approx(0.0101, rel=0.2)
        assert row["backbone"] == pytest.approx(alone, rel=0.5)
        assert row["transfer"] is None
        assert sum(parts) == pytest.approx(row["seconds"], rel=0.1)


def rows_of(seconds: list[float], **phases: float) -> list[Row]:
    """Rows of given seconds whose phases are fixed shares of them."""
    return [
        {"epoch": 0, "step": i, "seconds": s, **{name: s * phases[name] if name in phases else None for name in PHASES}}
        for i, s in enumerate(seconds)
    ]


def test_summary_against_the_standard_library() -> None:
    seconds = [0.9, 1.0, 1.4, 1.1, 2.0, 1.3, 0.8, 1.2]
    result = summary(rows_of(seconds, data=0.25, forward=0.5))
    quarters = statistics.quantiles(seconds, n=4, method="inclusive")
    twentieths = statistics.quantiles(seconds, n=20, method="inclusive")
    assert result["count"] == 8
    assert [result["q25"], result["median"], result["q75"]] == pytest.approx(quarters)
    assert result["p95"] == pytest.approx(twentieths[-1])
    assert result["cv"] == pytest.approx(statistics.stdev(seconds) / statistics.mean(seconds))
    assert result["phases"] == {**dict.fromkeys(PHASES), "data": pytest.approx(0.25), "forward": pytest.approx(0.5)}


def test_a_share_counts_every_second_also_of_steps_without_the_phase() -> None:
    rows = rows_of([1.0, 3.0], forward=1.0)
    rows[1]["forward"] = None
    assert summary(rows)["phases"]["forward"] == pytest.approx(0.25)


def test_summary_of_nothing_and_of_one_step_makes_no_figures_up() -> None:
    nothing = summary([])
    assert nothing["count"] == 0
    assert [nothing[key] for key in ("median", "q25", "q75", "p95", "cv")] == [None] * 5
    assert set(nothing["phases"].values()) == {None}
    one = summary(rows_of([2.0]))
    assert (one["median"], one["p95"], one["cv"]) == (2.0, 2.0, None)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([1.0] * 3 + [7.0] * 3 + [1.2] * 3, 0.2),
        ([2.0] * 3 + [7.0] * 4 + [1.0] * 3, -0.5),
        ([1.0] * 8, None),
        ([], None),
    ],
)
def test_drift_compares_the_outer_thirds(seconds: list[float], expected: float | None) -> None:
    assert drift(rows_of(seconds)) == (None if expected is None else pytest.approx(expected))


def test_warnings_name_drift_and_variation_beyond_their_limits() -> None:
    assert step_warnings([]) == []
    assert step_warnings(rows_of([1.0, 1.04, 0.96] * 5)) == []
    slower = step_warnings(rows_of([1.0] * 10 + [1.03] * 10 + [1.06] * 10))
    assert [text for text in slower if "+6.0%" in text] == slower
    assert len(slower) == 1
    unsteady = step_warnings(rows_of([1.0, 2.0] * 10))
    assert len(unsteady) == 1
    assert "variation" in unsteady[0]


def test_reading_steps_needs_no_torch() -> None:
    program = "import sys, bench.measure.clock; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
