"""Attributes of items that the vectors of an item encoder hold, by linear probes on items that are new to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.models.inputs import ItemFeed
from bench.models.pretrain.linear_probe import chance, linear_probe
from bench.models.recommender import Recommender
from bench.training.evaluate import Alive, encode_catalogue, no_heartbeat

FOLDS = 3
Labels = Mapping[str, NDArray[np.int64]]
"""Attribute -> its value for each item, (items,)."""


def attributes_held(
    model: Recommender, feed: ItemFeed, labels: Labels, device: torch.device, alive: Alive = no_heartbeat
) -> dict[str, dict[str, float]]:
    """Encode the items and probe their vectors for every attribute; see :func:`probe_attributes`.

    The model runs in eval mode; its mode is restored afterwards.
    """
    training = model.training
    model.eval()
    try:
        vectors = encode_catalogue(model, feed, len(next(iter(labels.values()))), device, alive)
    finally:
        model.train(training)
    return probe_attributes(vectors.cpu(), labels, alive)


def probe_attributes(vectors: Tensor, labels: Labels, alive: Alive = no_heartbeat) -> dict[str, dict[str, float]]:
    """Accuracy of a linear probe by attribute, with that of chance and the number of items.

    Three probes are each trained on two thirds of the items and judged on the rest, so that every item counts once; up
    to two last items are left out.

    Args:
        vectors: item vectors, (items, d), in random order.
        labels: values of each attribute.
        alive: heartbeat, called after every attribute.

    Returns:
        Attribute -> "accuracy", "chance" (always naming the value that is the most frequent in training) and "n".
    """
    fold = len(vectors) // FOLDS
    vectors = vectors[: fold * FOLDS]
    found = {}
    with torch.random.fork_rng(devices=[]):  # the first weights of a probe are drawn at random
        torch.default_generator.manual_seed(0)
        for name, values in labels.items():
            classes, index = np.unique(values[: len(vectors)], return_inverse=True)
            label = torch.from_numpy(index.astype(np.int64))
            turns = [(vectors.roll(turn * fold, 0), label.roll(turn * fold)) for turn in range(FOLDS)]
            accuracy = [linear_probe(rows, own, len(classes)) for rows, own in turns]
            floor = [chance(own, len(classes)) for _, own in turns]
            found[name] = {"accuracy": float(np.mean(accuracy)), "chance": float(np.mean(floor)), "n": len(vectors)}
            alive()
    return found
