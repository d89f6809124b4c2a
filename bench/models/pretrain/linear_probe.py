"""Linear probe: how well a linear classifier reads an attribute from vectors that it was not trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_probe(features: Tensor, labels: Tensor, n_classes: int) -> float:
    """Held-out accuracy of multinomial logistic regression, trained on the first two thirds of the rows.

    The features are standardised; the caller gives the rows in random order. Chance is about ``1 / n_classes`` when
    the classes are equally frequent (:func:`chance` counts them).

    Args:
        features: vectors, (n, width).
        labels: class of each vector, (n,) integers below ``n_classes``.
    """
    features = (features - features.mean(0)) / (features.std(0) + 1e-5)
    cut = len(labels) * 2 // 3
    linear = nn.Linear(features.shape[1], n_classes)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=60)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(features[:cut]), labels[:cut]) + 1e-3 * linear.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (linear(features[cut:]).argmax(1) == labels[cut:]).float().mean().item()


def chance(labels: Tensor, n_classes: int) -> float:
    """Accuracy on the last third of always naming the most frequent class of the first two thirds."""
    cut = len(labels) * 2 // 3
    return (labels[cut:] == labels[:cut].bincount(minlength=n_classes).argmax()).float().mean().item()
