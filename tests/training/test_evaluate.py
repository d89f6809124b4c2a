import numpy as np
import pytest
import torch
from torchmetrics.retrieval import RetrievalHitRate, RetrievalNormalizedDCG

from bench.cell.state import Heartbeat
from bench.data.splits import PAD
from bench.training import evaluate
from bench.training.evaluate import accuracy, rank_targets


def table(users: int = 50, items: int = 40, seed: int = 0):  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(seed)
    u, v = torch.randn(users, 8, generator=generator), torch.randn(items, 8, generator=generator)
    rng = np.random.default_rng(seed)
    target = rng.integers(items, size=users).astype(np.int32)
    history = rng.integers(items, size=(users, 12)).astype(np.int32)
    history[history == target[:, None]] = PAD
    history[:, :4] = PAD
    return u, v, target, history


def test_against_torchmetrics() -> None:
    u, v, target, history = table()
    found = accuracy(rank_targets(u, v, target, history))
    scores, preds, truth, index = u @ v.T, [], [], []
    for row in range(len(u)):
        kept = [i for i in range(len(v)) if i not in history[row]]
        preds.append(scores[row, kept])
        truth.append(torch.tensor([i == target[row] for i in kept]))
        index.append(torch.full((len(kept),), row))
    p, t, i = torch.cat(preds), torch.cat(truth), torch.cat(index)
    assert np.isclose(found.hr, RetrievalHitRate(top_k=10)(p, t, i).item(), atol=1e-6)
    assert np.isclose(found.ndcg, RetrievalNormalizedDCG(top_k=10)(p, t, i).item(), atol=1e-6)
    assert 0 < found.ndcg < found.hr < 1


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_ranks_are_the_same_under_autocast(precision: torch.dtype) -> None:
    u, v, target, history = table(users=96, items=600)
    plain = rank_targets(u, v, target, history)
    with torch.autocast("cpu", precision):
        assert (u @ v.T).dtype == precision  # a score computed here would be rounded
        inside = rank_targets(u, v, target, history)
    assert np.array_equal(inside, plain)
    scores = (u.double() @ v.double().T).numpy()
    out = [set(row[row != PAD]) | {own} for row, own in zip(history, target, strict=True)]
    exact = [
        1 + sum(scores[i, j] >= scores[i, target[i]] for j in range(len(v)) if j not in out[i]) for i in range(len(u))
    ]
    assert np.array_equal(plain, exact)


def test_chunks_do_not_matter(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    u, v, target, history = table()
    whole = rank_targets(u, v, target, history)
    monkeypatch.setattr(evaluate, "SCORES_AT_ONCE", 7 * len(v))
    assert np.array_equal(rank_targets(u, v, target, history), whole)


def test_every_chunk_is_a_sign_of_life(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    u, v, target, history = table(users=50)
    monkeypatch.setattr(evaluate, "SCORES_AT_ONCE", 7 * len(v))
    signs: list[int] = []
    rank_targets(u, v, target, history, lambda: signs.append(1))
    assert len(signs) == 8  # 50 users, 7 at a time


def test_signs_of_life_are_told_once_a_second() -> None:
    at, said = [0.0], []
    alive = Heartbeat(lambda event: said.append((at[0], event)), now=lambda: at[0])
    for tenth in range(1, 36):
        at[0] = tenth / 10
        alive()
    assert said == [(second, {"event": "alive"}) for second in (1.0, 2.0, 3.0)]


def test_ties_go_against_the_model() -> None:
    nothing = np.full((1, 12), PAD, dtype=np.int32)
    target = np.array([3], dtype=np.int32)
    alike = rank_targets(torch.ones(1, 2), torch.ones(20, 2), target, nothing)
    assert alike.tolist() == [20]
    history = nothing.copy()
    history[0, :2] = [0, 1]
    assert rank_targets(torch.ones(1, 2), torch.ones(20, 2), target, history).tolist() == [18]


def test_a_score_that_is_no_number_ranks_last() -> None:
    v = torch.ones(20, 2)
    v[3] = float("nan")
    nothing = np.full((1, 12), PAD, dtype=np.int32)
    assert rank_targets(torch.ones(1, 2), v, np.array([3], dtype=np.int32), nothing).tolist() == [20]
    v[3] = float("-inf")
    assert rank_targets(torch.ones(1, 2), v, np.array([3], dtype=np.int32), nothing).tolist() == [20]


def test_metrics_by_hand() -> None:
    found = accuracy(np.array([1, 3, 10, 11]))
    assert found.hr == 0.75
    assert np.isclose(found.ndcg, (1 + 1 / 2 + 1 / np.log2(11)) / 4)
