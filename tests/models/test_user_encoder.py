import torch

from bench.models.recommender import UserEncoder


def test_causal_and_blind_to_padding() -> None:
    torch.manual_seed(0)
    encoder = UserEncoder(width=16).double().eval()
    items = torch.randn(2, 10, 16, dtype=torch.float64)
    real = torch.ones(2, 10, dtype=torch.bool)
    real[1, :4] = False
    before = encoder(items, real)
    later = items.clone()
    later[:, 7:] *= -1  # not a constant: LayerNorm would take it out
    assert torch.equal(encoder(later, real)[:, :7], before[:, :7])
    assert not torch.allclose(encoder(later, real)[:, 7:], before[:, 7:])
    padded = items.clone()
    padded[1, :4] = 99
    assert torch.equal(encoder(padded, real)[1, 4:], before[1, 4:])
    assert torch.isfinite(encoder(padded, real)).all()


def test_the_newest_item_counts_from_the_right() -> None:
    # A left-padded short sequence must get the positions of the end, not of the start.
    torch.manual_seed(0)
    encoder = UserEncoder(width=8).eval()
    items = torch.randn(1, 10, 8)
    only_last = torch.zeros(1, 10, dtype=torch.bool)
    only_last[0, 9] = True
    expected = encoder.norm(items[:, 9] + encoder.positions[9])
    for block in encoder.blocks:
        # With one real position attention is the identity on its value.
        attended = block.output(block.value(expected))
        expected = block.norm1(expected + attended)
        expected = block.norm2(expected + block.outer(torch.relu(block.inner(expected))))
    assert torch.allclose(encoder(items, only_last)[:, 9], expected, atol=1e-5)
