"""The step clock against a simulated stream and a real card."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from bench.measure.clock import StepClock
from bench.records.columns import PHASES
from tests.measure.hand import Hand


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
