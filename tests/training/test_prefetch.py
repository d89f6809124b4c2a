"""Loading one batch ahead: order, values, errors and the end of the thread; streams are simulated."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.data.batches import Batch, make_batch
from bench.measure.clock import StepClock
from bench.models.recommender import Recommender, TrainBatch, UserEncoder
from bench.training.budget import Budget
from bench.training.config import TrainingConfig
from bench.training.loop import Trainer, Training, TrainingData, TrainingHooks, train
from bench.training.prefetch import Prefetch
from methods.base import Group

CPU = torch.device("cpu")
SECONDS = 20.0
"""After so long a test that waits in vain fails."""


class Items(torch.nn.Linear):
    """Item encoder: a linear layer over three features of an item."""

    def __init__(self) -> None:
        super().__init__(3, 8)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:  # type: ignore[override]
        return super().forward(inputs["features"])


class Feed:
    """Features of nine items; counts the calls."""

    table = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))

    def __init__(self) -> None:
        self.calls = 0
        self.threads: set[str] = set()

    def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        return {"features": self.table[torch.from_numpy(rows)]}


def small_trainer() -> Trainer:
    torch.manual_seed(0)
    model = Recommender(Items(), UserEncoder(8, dropout=0.5))
    group = Group("all", 1e-2, tuple(model.parameters()))
    return Trainer(model, [group], TrainingConfig(), "fp32", CPU)


def small_batches(done: int = 0) -> Iterator[Batch]:
    for number in range(done, 10**6):
        rng = np.random.default_rng(number)
        rows = np.full((3, 11), -1, dtype=np.int32)
        for row in rows:
            row[-5:] = rng.permutation(9)[:5]
        yield make_batch(rows)


def data_of(feed: Any, done: int = 0) -> TrainingData:
    return TrainingData(small_batches(done), feed, np.zeros(9, dtype=np.float32))


def hooks() -> TrainingHooks:
    return TrainingHooks(StepClock(CPU))


def prefetching() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_losses_are_those_of_a_loop_that_loads_in_its_steps() -> None:
    plain, batches, feed = small_trainer(), small_batches(), Feed()
    plain.model.train()
    expected = []
    torch.manual_seed(5)  # dropout
    for step in range(12):
        plain.set_progress(step, step / 12)
        batch = next(batches)
        moved = plain.transfer(batch, feed.gather(batch.unique), np.zeros(9, dtype=np.float32))
        expected.append(plain.step(moved).item())

    ahead, done = small_trainer(), Training()
    torch.manual_seed(5)
    train(ahead, data_of(Feed()), Budget(12, None, 4), hooks(), done)
    assert done.losses == expected
    assert len(set(expected)) == 12


def test_a_resumed_training_sees_the_batches_that_it_would_have_seen() -> None:
    seen: list[list[int]] = []

    class Noting(Feed):
        def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
            seen.append(rows.tolist())
            return super().gather(rows)

    done = Training()
    for limit in (3, 7):
        begun = len(done.losses)
        # The batch that was loaded ahead and not used is loaded again.
        train(small_trainer(), data_of(Noting(), begun), Budget(limit, None, 100), hooks(), done)
    used = seen[:3] + seen[4:8]
    assert used == [batch.unique.tolist() for batch, _ in zip(small_batches(), range(7), strict=False)]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_the_next_batch_is_gathered_while_a_step_runs(step: int) -> None:
    """The forward pass waits for the gathering of the next batch: with loading in the steps it would wait for ever."""
    gathered = [threading.Event() for _ in range(8)]

    class Telling(Feed):
        def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
            inputs = super().gather(rows)
            gathered[self.calls - 1].set()
            return inputs

    trainer, feed = small_trainer(), Telling()
    forward, steps = trainer.forward, iter(range(1, 6))

    def waiting(batch: TrainBatch) -> torch.Tensor:
        number = next(steps)
        if number == step:
            assert gathered[number].wait(SECONDS), "the next batch is not gathered while the step runs"
        assert feed.calls <= number + 1, "more than one batch ahead"
        return forward(batch)

    trainer.forward = waiting  # type: ignore[method-assign]
    train(trainer, data_of(feed), Budget(5, None, 100), hooks())
    assert feed.threads == {"prefetch_0"}


def test_an_error_of_the_thread_is_raised_in_the_step_that_needs_the_batch() -> None:
    class Broken(Feed):
        def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
            if self.calls == 3:
                raise MemoryError("no memory for the pictures")
            return super().gather(rows)

    done, at = Training(), hooks()
    with pytest.raises(MemoryError, match="for the pictures") as raised:
        train(small_trainer(), data_of(Broken()), Budget(9, None, 100), at, done)
    assert len(done.losses) == len(at.clock.rows) == 3
    assert "in gather" in "".join(traceback.format_exception(raised.value))
    assert not prefetching()
    train(small_trainer(), data_of(Broken()), Budget(3, None, 100), hooks(), done := Training())
    assert len(done.losses) == 3, "an error of a batch that no step needs is none"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_the_loop(error: type[BaseException]) -> None:
    class Failing(TrainingHooks):
        def report(self, event: dict[str, Any]) -> None:
            assert prefetching()
            raise error

    with pytest.raises(error):
        train(small_trainer(), data_of(Feed()), Budget(9, None, 100), Failing(StepClock(CPU)))
    assert not prefetching()


class FakeCuda:
    """Streams that note what is done on them, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.compute, self.local = FakeStream(self, "compute"), threading.local()

    def Stream(self, device: torch.device) -> FakeStream:
        assert device == torch.device("cuda:0")
        return FakeStream(self, "copies")

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.local.stream = stream
        yield
        self.local.stream = self.compute

    def current_stream(self, device: torch.device | None = None) -> FakeStream:
        return getattr(self.local, "stream", self.compute)


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str):
        self.cuda, self.name, self.copies = cuda, name, 0

    def record_event(self) -> str:
        self.copies += 1
        return f"event behind {self.copies - 1}"

    def wait_event(self, event: str) -> None:
        self.cuda.calls.append(f"{self.name} waits for {event}")


class FakeTensor:
    def __init__(self, cuda: FakeCuda):
        self.cuda = cuda

    def record_stream(self, stream: FakeStream) -> None:
        self.cuda.calls.append(f"used on {stream.name}")


def test_copies_run_on_a_stream_of_their_own_and_the_step_waits_for_them() -> None:
    """Noted by a stand-in for torch.cuda: without one of these calls a step could read what is not there yet."""
    cuda = FakeCuda()
    loads, loaded = iter(range(9)), [threading.Event() for _ in range(9)]

    def load() -> TrainBatch:
        number = next(loads)
        cuda.calls.append(f"copy {number} on {cuda.current_stream().name}")
        tensors = [cast(torch.Tensor, FakeTensor(cuda)) for _ in range(5)]
        loaded[number].set()
        return TrainBatch({"a": tensors[0], "b": tensors[1]}, *tensors[2:])

    with Prefetch(load, torch.device("cuda:0"), cuda) as batches:
        for number in range(2):
            batch = batches.take()
            assert loaded[number + 1].wait(SECONDS)
            batches.receive(batch)
    used = ["used on compute"] * 5
    assert cuda.calls == [
        "copy 0 on copies", "copy 1 on copies", "compute waits for event behind 0", *used,
        "copy 2 on copies", "compute waits for event behind 1", *used,
    ]  # fmt: skip


def test_a_batch_is_copied_from_page_locked_memory_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch blocks the host for copies from other memory, whatever ``non_blocking`` says."""
    calls: list[Any] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pin")
        return tensor

    def to(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
        calls.append((device.type, non_blocking))
        return tensor

    trainer, batch = small_trainer(), next(small_batches())
    trainer.device = torch.device("cuda:0")
    inputs = Feed().gather(batch.unique)
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", pin)
        patch.setattr(torch.Tensor, "to", to)
        trainer.transfer(batch, inputs, np.zeros(9, dtype=np.float32))
    assert calls == ["pin", ("cuda", True)] * 4
