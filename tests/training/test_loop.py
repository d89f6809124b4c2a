from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench.data.batches import make_batch
from bench.measure.clock import StepClock
from bench.models.recommender import Recommender, UserEncoder
from bench.training.budget import Budget
from bench.training.config import BudgetConfig, TrainingConfig
from bench.training.loop import Diverged, Trainer, Training, TrainingData, TrainingHooks, train
from methods.base import Group, Step, StepHook


def trainer(**training) -> Trainer:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = Recommender(torch.nn.Linear(3, 8), UserEncoder(8))
    groups = [
        Group("head", 1e-2, tuple(model.item_encoder.parameters())),
        Group("user", 1e-3, tuple(model.user_encoder.parameters())),
    ]
    return Trainer(model, groups, TrainingConfig(**training), "fp32", torch.device("cpu"))


def rates(t: Trainer) -> list[float]:
    return [group["lr"] for group in t.optimizer.param_groups]


def test_warm_up_then_linear_to_zero() -> None:
    t = trainer(lr_warmup_steps=4, lr_schedule="linear")
    seen = []
    for step in range(20):
        t.set_progress(step, step / 20)
        seen.append(rates(t)[0] / 1e-2)
        assert np.isclose(rates(t)[0], 10 * rates(t)[1])
    assert np.allclose(seen[:4], [0.25, 0.5, 0.75, 0.85])
    assert np.allclose(seen[4:], 1 - np.arange(4, 20) / 20)


def test_constant_after_warm_up() -> None:
    t = trainer(lr_warmup_steps=2, lr_schedule="constant")
    seen = []
    for step in range(4):
        t.set_progress(step, 0.9)
        seen.append(rates(t)[1] / 1e-3)
    assert np.allclose(seen, [0.5, 1, 1, 1])


def test_state_comes_back() -> None:
    t = trainer()
    before, kept = [p.clone() for p in t.parameters], t.state()
    for p in t.parameters:
        p.data.add_(1)
    t.restore(kept)
    assert all(torch.equal(a, b) for a, b in zip(before, t.parameters, strict=True))


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"epochs": 3}, 21), ({"steps": 5}, 5)],
)
def test_budgets_in_steps(config: dict[str, int], expected: int) -> None:
    budget = Budget.of(BudgetConfig(**config), steps_per_epoch=7)
    steps = 0
    while budget.progress(steps, 1e9) < 1:
        steps += 1
    assert steps == expected


def test_budget_in_seconds_does_not_count_steps() -> None:
    budget = Budget.of(BudgetConfig(seconds=2.0), steps_per_epoch=7)
    assert budget.progress(10**6, 1.0) == 0.5
    assert budget.progress(1, 2.5) == 1.0


def test_evaluation_at_epoch_ends_and_at_the_end() -> None:
    budget = Budget.of(BudgetConfig(steps=10), steps_per_epoch=4)
    assert [s for s in range(1, 11) if budget.evaluate_after(s, spent=s == 10)] == [4, 8, 10]


class Items(torch.nn.Module):
    """An item encoder: a linear layer over fixed features of the items."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 8)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.linear(inputs["features"])


class Spy(StepHook):
    """Notes the norm of all gradients when the weights have been updated."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: list[torch.nn.Parameter] = []
        self.norms: list[float] = []

    def after(self, step: Step) -> None:
        self.norms.append(float(torch.stack([p.grad.norm() for p in self.watched if p.grad is not None]).norm()))

    def penalty(self) -> None:
        return None

    def reset(self) -> None:
        self.norms.clear()


class Features:
    """Item features, gathered by index."""

    table = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))

    def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        return {"features": self.table[torch.from_numpy(rows)]}


def loop_trainer(**training: Any) -> tuple[Trainer, Spy]:
    torch.manual_seed(0)
    items, spy = Items(), Spy()
    items.add_module("spy", spy)
    model = Recommender(items, UserEncoder(8, dropout=0.0))
    groups = [Group("all", 1e-2, tuple(model.parameters()))]
    config = TrainingConfig(lr_warmup_steps=0, lr_schedule="constant", **training)
    trainer = Trainer(model, groups, config, "fp32", torch.device("cpu"))
    spy.watched = trainer.parameters
    return trainer, spy


def loop_data(users: int = 12) -> TrainingData:
    rng = np.random.default_rng(0)
    rows = np.full((users, 11), -1, dtype=np.int32)
    for row in rows:
        row[-5:] = rng.permutation(9)[:5]
    batches = (make_batch(rows[start : start + 3]) for _ in range(100) for start in range(0, users, 3))
    return TrainingData(batches, Features(), np.zeros(9, dtype=np.float32))  # type: ignore[arg-type]


class Scripted(TrainingHooks):
    """Validation gives one score after the other; notes the trained values at every evaluation."""

    def __init__(self, t: Trainer, scores: list[float]):
        super().__init__(StepClock(torch.device("cpu")))
        self.trainer, self.scores = t, iter(scores)
        self.states: list[list[torch.Tensor]] = []

    def validate(self) -> tuple[float, float]:
        self.states.append(self.trainer.state())
        return next(self.scores), 0.0


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("scores", "best"), [([0.3, 0.5, 0.5, 0.2], 1), ([0.4, 0.4, 0.4, 0.4], 0), ([0, 1, 2, 3], 3)])
def test_training_ends_at_the_first_of_the_best_epochs(scores: list[float], best: int) -> None:
    t, _ = loop_trainer()
    hooks, done = Scripted(t, scores), Training()
    train(t, loop_data(), Budget(16, None, 4), hooks, done)
    assert done.best == best
    assert equal(t.state(), hooks.states[best])
    assert not any(equal(hooks.states[best], hooks.states[other]) for other in range(4) if other != best)
    assert [(point.epoch, point.step) for point in done.curve] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert [point.loss for point in done.curve] == pytest.approx(np.reshape(done.losses, (4, 4)).mean(axis=1))
    assert [point.valid_hr for point in done.curve] == scores


def test_evaluating_and_copying_the_best_values_is_no_training() -> None:
    paused: list[bool] = []
    seen: list[tuple[str, bool]] = []

    class Paused(Scripted):
        @contextmanager
        def paused(self) -> Iterator[None]:
            paused.append(True)
            yield
            paused.pop()

        def validate(self) -> tuple[float, float]:
            seen.append(("validate", bool(paused)))
            return next(self.scores), 0.0

        def evaluated(self) -> None:
            seen.append(("evaluated", bool(paused)))

    t, _ = loop_trainer()

    def watched(name: str) -> None:
        real = getattr(t, name)

        def call(*args: Any) -> Any:
            seen.append((name, bool(paused)))
            return real(*args)

        setattr(t, name, call)

    for name in ("state", "restore", "forward"):
        watched(name)
    train(t, loop_data(), Budget(4, None, 2), Paused(t, [0.1, 0.2]))
    part = [("forward", False), ("forward", False), ("validate", True), ("state", True), ("evaluated", True)]
    assert seen == [*part, *part, ("restore", True)]


def test_gradients_are_clipped_to_the_norm_that_the_matrix_says() -> None:
    """The method's hooks see the gradients that the optimizer used; the loop checks their norm before clipping."""
    free, free_spy = loop_trainer(clip_norm=1e9)
    tight, tight_spy = loop_trainer(clip_norm=1e-3)
    for t in (free, tight):
        train(t, loop_data(), Budget(4, None, 4), Scripted(t, [0.0]))
    assert tight_spy.norms == pytest.approx([1e-3] * 4, rel=1e-3)
    assert min(free_spy.norms) > 1e-2
    assert not equal(free.state(), tight.state())


def test_norm_before_clipping_is_what_update_returns() -> None:
    t, spy = loop_trainer(clip_norm=1e-3)
    data = loop_data()
    batch = next(data.batches)
    t.backward(t.forward(t.transfer(batch, data.feed.gather(batch.unique), data.log_popularity)))
    expected = float(torch.cat([p.grad.flatten() for p in t.parameters if p.grad is not None]).norm())
    assert float(t.update()) == pytest.approx(expected)
    assert spy.norms == pytest.approx([1e-3], rel=1e-3)
    assert all(p.grad is None for p in t.parameters)


def test_a_loss_that_is_not_finite_stops_the_training_and_says_where() -> None:
    t, _ = loop_trainer()
    data = loop_data()
    table = Features.table.clone()

    class Poisoned(Features):
        steps = 0

        def gather(self, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
            self.steps += 1
            return {"features": table[torch.from_numpy(rows)] * (torch.nan if self.steps == 7 else 1.0)}

    data = TrainingData(data.batches, Poisoned(), data.log_popularity)  # type: ignore[arg-type]
    with pytest.raises(Diverged) as stopped:
        train(t, data, Budget(16, None, 4), Scripted(t, [0.1] * 4))
    error = stopped.value
    assert (error.what, error.step, error.epoch, error.last_good_epoch) == ("loss", 7, 2, 1)
