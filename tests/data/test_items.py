from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from bench.data import items as module
from bench.data.items import ItemFeed, pixels, tokenise
from bench.data.shop.shop import ShopConfig, make_shop
from bench.data.store import cache_dir
from bench.errors import UserError
from bench.models.backbones import locate

SHOP = make_shop(ShopConfig(items=60, users=20))


def test_tokens_are_the_tokenizers_own(model_folders: dict[str, Path]) -> None:
    tokens = tokenise(SHOP, locate(str(model_folders["bert"]), "text"), 30)
    tokenizer = BertTokenizer.from_pretrained(model_folders["bert"])
    for row, title in enumerate(SHOP.titles):
        expected = tokenizer(title.lower())["input_ids"]
        assert tokens.ids[row, : tokens.lengths[row]].tolist() == expected
        assert not tokens.ids[row, tokens.lengths[row] :].any()
    assert tokens.unknown_share == 0.0


def test_titles_are_cut_with_the_special_tokens_counted(model_folders: dict[str, Path]) -> None:
    tokens = tokenise(SHOP, locate(str(model_folders["bert"]), "text"), 5)
    assert tokens.ids.shape == (60, 5)
    assert set(tokens.lengths.tolist()) == {5}
    assert len(set(tokens.ids[:, -1].tolist())) == 1  # [SEP]


def test_unknown_words_are_counted(model_folders: dict[str, Path]) -> None:
    import dataclasses

    half = dataclasses.replace(SHOP, titles=("lamp manometer", *["oak steth"] * 59), digest="other")
    assert tokenise(half, locate(str(model_folders["bert"]), "text"), 30).unknown_share == 0.5


def test_a_kept_copy_serves_and_a_damaged_one_is_made_again(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = locate(str(model_folders["bert"]), "text")
    first = tokenise(SHOP, source, 30)
    real = module._tokenised
    monkeypatch.setattr(module, "_tokenised", lambda *_: pytest.fail("tokenised twice"))
    assert np.array_equal(tokenise(SHOP, source, 30).ids, first.ids)
    monkeypatch.setattr(module, "_tokenised", real)
    (kept,) = (cache_dir() / "tokens").glob("*.npz")
    kept.write_bytes(kept.read_bytes()[:200])
    assert np.array_equal(tokenise(SHOP, source, 30).ids, first.ids)


def test_configuration_only_hashes_words() -> None:
    tokens = tokenise(SHOP, locate("bert-base", "text", "random"), 30)
    words = [len(title.split()) for title in SHOP.titles]
    assert tokens.lengths.tolist() == [n + 2 for n in words]
    assert tokens.ids.max() < 30_522
    same = [i for i, t in enumerate(SHOP.titles) if t.split()[0] == SHOP.titles[0].split()[0]]
    assert len({int(tokens.ids[i, 1]) for i in same}) == 1


def test_gather_cuts_to_the_longest_of_the_batch(model_folders: dict[str, Path]) -> None:
    tokens = tokenise(SHOP, locate(str(model_folders["bert"]), "text"), 30)
    rows = np.array([3, 8, 3])
    got = ItemFeed(tokens, {"pixels": SHOP.images}).gather(rows)
    assert got["input_ids"].shape == got["attention_mask"].shape == (3, tokens.lengths[rows].max())
    assert got["attention_mask"].sum(1).tolist() == tokens.lengths[rows].tolist()
    assert torch.equal(got["pixels"], torch.from_numpy(SHOP.images[rows]))


def test_pictures_are_brought_to_the_encoders_size_once() -> None:
    assert pixels(SHOP, 32) is SHOP.images
    larger = pixels(SHOP, 48)
    assert larger.shape == (60, 48, 48, 3)
    expected = Image.fromarray(SHOP.images[7]).resize((48, 48), Image.Resampling.BILINEAR)
    assert np.array_equal(larger[7], np.asarray(expected))
    assert np.array_equal(pixels(SHOP, 48), larger)


def test_no_pictures() -> None:
    import dataclasses

    with pytest.raises(UserError, match="has no images"):
        pixels(dataclasses.replace(SHOP, images=None), 32)
