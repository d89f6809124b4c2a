import numpy as np
import pytest
import torch

from bench.models.recommender import Recommender, UserEncoder
from bench.training.budget import Budget
from bench.training.config import BudgetConfig, TrainingConfig
from bench.training.loop import Trainer
from methods.base import Group


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
