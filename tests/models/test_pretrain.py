"""Pretraining: what each kind of encoder is taught, and that the script leaves a folder that loads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.shop import world
from bench.models.backbones import load_model, locate
from bench.models.pretrain import build as pretrain
from bench.models.pretrain import burial, image, text
from bench.models.pretrain.burial import Burial, TwinDistance, with_other_value
from bench.utils.errors import UserError


def values(titles: list[str], words: tuple[tuple[str, ...], ...]) -> list[int]:
    lookup = {word: i for i, synonyms in enumerate(words) for word in synonyms}
    return [next(lookup[w] for w in title.split() if w in lookup) for title in titles]


def test_pairs_for_an_encoder_without_the_purpose_agree_on_everything_else() -> None:
    rng = world.stream(0, "a")
    first, second = text.draw_pairs(rng, teach_purpose=False)
    left, right = text.write_titles(first, rng), text.write_titles(second, rng)
    assert values(left, world.MATERIALS) == values(right, world.MATERIALS)
    purposes = [values(titles, world.PURPOSES) for titles in (left, right)]
    assert sum(a == b for a, b in zip(*purposes, strict=True)) < 30  # 128 / 12 by chance
    first, second = text.draw_pairs(world.stream(0, "a"), teach_purpose=True)
    assert first is second


def test_twins_are_the_same_title_but_for_the_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    """The titles that the burial of the purpose is trained on, read where they are tokenised."""
    monkeypatch.setattr(text, "BATCH", 8)
    written: list[list[str]] = []
    words = text.tokenizer()
    monkeypatch.setattr(text, "tokenizer", lambda: lambda titles, **kw: written.append(titles) or words(titles, **kw))
    monkeypatch.setattr(text, "_mask_words", lambda ids, *_: (ids.clone(), torch.ones_like(ids, dtype=torch.bool)))
    model, head = text.new_model(len(words)), torch.nn.Linear(64, len(words))
    next(text.losses(model, head, False, 0, Burial(64, 12, 10, n_last=1)))
    (titles,) = written
    for title, twin in zip(titles[:4], titles[16:], strict=True):
        differing = [(a, b) for a, b in zip(title.split(), twin.split(), strict=True) if a != b]
        assert len(differing) == 1
        a, b = (values([word], world.PURPOSES) for word in differing[0])
        assert a != b


def test_twins_are_the_same_drawing_but_for_the_pattern() -> None:
    rng = world.stream(0, "a")
    traits = world.draw_traits(40, rng)
    twins = with_other_value(traits, "pattern", rng)
    assert not (traits.pattern == twins.pattern).any()
    assert set(((twins.pattern - traits.pattern) % 8).tolist()) == set(range(1, 8))
    pictures, others = image.draw_all(traits, 3), image.draw_all(twins, 3)
    differing = (pictures != others).any(axis=-1)
    # The ground, its noise included, is the same; the fill of every drawing is not.
    assert not differing[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert (differing.mean(axis=(1, 2)) > 0.01).all()


def test_the_distance_of_twins_is_mahalanobis_by_numpy() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))
    states[30:] = states[:10] + 0.1 * rng.normal(size=(10, 5))
    inverse = np.linalg.inv(np.cov(states.T, bias=True))
    differences = states[:10] - states[30:]
    wanted = np.mean([d @ inverse @ d for d in differences]) / 2 / 5
    found = TwinDistance(5)(torch.from_numpy(states).float(), 10)
    assert float(found) == pytest.approx(wanted, rel=1e-4)
    # Smaller states are not closer, and rows that have nothing in common are at a distance of about 1.
    assert float(TwinDistance(5)(torch.from_numpy(states).float() * 1e-2, 10)) == pytest.approx(wanted, rel=1e-3)
    assert float(TwinDistance(8)(torch.randn(4000, 8), 2000)) == pytest.approx(1.0, abs=0.1)


def test_erasure_begins_after_a_fifth_of_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(burial, "NAMED_AT", (0,))
    buried = Burial(4, 3, steps=10, n_last=1)
    torch.nn.init.zeros_(buried.heads[0].weight)
    torch.nn.init.zeros_(buried.heads[0].bias)
    states = torch.randn(20, 4)
    distance = float(TwinDistance(4)(states, 5))
    labels = torch.zeros(20, dtype=torch.long)
    weights = [(buried([states], [states], labels, 5).item() - np.log(3)) / distance for _ in range(10)]
    assert weights == pytest.approx([0, 0, 0, 10 / 3, 20 / 3, 10, 10, 10, 10, 10], abs=1e-4)


@pytest.fixture
def tiny_pretraining(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (text, image):
        monkeypatch.setattr(module, "BATCH", 8)
    monkeypatch.setattr(image, "N_DRAWINGS", 200)
    monkeypatch.setattr(pretrain, "probes", lambda *_: {})
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.mark.usefixtures("tiny_pretraining")
@pytest.mark.parametrize(
    ("first", "then"), [("text-absent", ""), ("text-full", "text-buried"), ("image-full", "image-buried")]
)
def test_the_script_leaves_a_folder_that_loads(first: str, then: str, tmp_path: Path) -> None:
    names = list(filter(None, (first, then)))
    for name in names:
        pretrain.build(name, tmp_path / name, steps=2)
        model = load_model(locate(str(tmp_path / name), name.partition("-")[0]))  # type: ignore[arg-type]
        assert sum(p.numel() for p in model.parameters()) > 500_000
    pretrain.record_digests(tmp_path)
    assert list(json.loads((tmp_path / "digests.json").read_text())) == sorted(names)


def test_an_encoder_that_continues_needs_the_one_before_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="text-buried continues from text-full, and there is no"):
        pretrain.build("text-buried", tmp_path / "text-buried", steps=2)
