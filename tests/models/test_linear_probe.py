import numpy as np
import pytest
import torch

from bench.models.pretrain.linear_probe import chance, linear_probe


def test_a_class_that_is_a_direction_is_read_and_one_that_is_not_there_is_not() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (900,), generator=rng)
    noise = torch.randn(900, 16, generator=rng)
    # Scales differ by orders of magnitude: features are standardised.
    known = (noise + 6 * torch.eye(4, 16)[labels]) * torch.logspace(-3, 3, 16)
    assert linear_probe(known, labels, 4) > 0.97
    assert linear_probe(noise, labels, 4) == pytest.approx(0.25, abs=0.06)


def test_accuracy_is_that_of_logistic_regression_by_scipy() -> None:
    """The same penalised likelihood, maximised by another library in double precision."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    features = rng.normal(size=(300, 5)) + 0.7 * np.eye(3, 5)[labels]
    x = np.c_[(features - features.mean(0)) / features.std(0, ddof=1), np.ones(300)]

    def loss(flat: np.ndarray) -> float:
        w = flat.reshape(6, 3)
        logits = x[:200] @ w
        return float(
            (np.log(np.exp(logits).sum(1)) - logits[np.arange(200), labels[:200]]).mean() + 1e-3 * (w[:5] ** 2).sum()
        )

    best = minimize(loss, np.zeros(18)).x.reshape(6, 3)
    wanted = float(((x[200:] @ best).argmax(1) == labels[200:]).mean())
    found = linear_probe(torch.from_numpy(features).float(), torch.from_numpy(labels), 3)
    assert found == pytest.approx(wanted, abs=0.011)


def test_only_rows_beyond_two_thirds_are_judged() -> None:
    labels = torch.tensor([0, 1] * 100 + [0] * 100)
    features = torch.where(labels == 0, 1.0, -1.0)[:, None].clone()
    features[200:] *= -1
    assert linear_probe(features, labels, 2) == 0.0


def test_chance_is_the_share_of_the_most_frequent_class() -> None:
    assert chance(torch.tensor([2, 2, 1, 0, 0, 1, 2, 0, 1]), 3) == pytest.approx(1 / 3)
    assert chance(torch.tensor([0, 0, 0, 1, 1, 1]), 3) == 0.0
