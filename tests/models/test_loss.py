import math

import torch

from bench.models.recommender import sequence_loss


def plain_loss(
    states: torch.Tensor, vectors: torch.Tensor, items: torch.Tensor, log_popularity: torch.Tensor, scale: float
) -> float:
    """The definition, position by position and candidate by candidate."""
    users, length = items.shape
    total, count = 0.0, 0
    for u in range(users):
        own = {i for i in items[u].tolist() if i >= 0}
        for t in range(length - 1):
            if items[u, t] < 0:
                continue
            target = int(items[u, t + 1])

            def logit(item: int, u: int = u, t: int = t) -> float:
                return float(states[u, t] @ vectors[item]) * scale - float(log_popularity[item])

            terms = [math.exp(logit(target))]
            for v in range(users):
                for item in items[v].tolist():
                    if item >= 0 and item not in own:
                        terms.append(math.exp(logit(item)))
            total += math.log(sum(terms)) - logit(target)
            count += 1
    return total / count


def test_equals_the_definition_with_repeats_and_padding() -> None:
    torch.manual_seed(0)
    items = torch.tensor([[-1, -1, 0, 1, 1, 2], [3, 4, 0, 0, 5, 6], [-1, 7, 3, 3, 3, 8], [2, 2, 2, 2, 2, 2]])
    states, vectors = torch.randn(4, 5, 8, dtype=torch.float64), torch.randn(9, 8, dtype=torch.float64)
    popularity = torch.rand(9, dtype=torch.float64).log()
    positions = torch.nonzero((items[:, :-1] >= 0).flatten())[:, 0]
    for scale in (1.0, 0.25):
        ours = sequence_loss(states, vectors, items, positions, popularity, scale).item()
        assert math.isclose(ours, plain_loss(states, vectors, items, popularity, scale), rel_tol=1e-12)


def test_a_single_user_has_no_candidate_but_the_target() -> None:
    items = torch.tensor([[0, 1, 2]])
    loss = sequence_loss(torch.randn(1, 2, 4), torch.randn(3, 4), items, torch.tensor([0, 1]), torch.zeros(3))
    assert loss.item() == 0.0
