import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from bench.data.cache.location import cache_dir
from bench.data.shop.shop import ShopConfig, make_shop
from bench.models import inputs
from bench.models.backbones import Preprocessing, locate
from bench.models.inputs import ItemFeed, pixels, tokenise
from bench.utils.errors import UserError
from tests.tiny import FamilyFolder

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
    half = dataclasses.replace(SHOP, titles=("lamp manometer", *["oak steth"] * 59), digest="other")
    assert tokenise(half, locate(str(model_folders["bert"]), "text"), 30).unknown_share == 0.5


def test_a_kept_copy_serves_and_a_damaged_one_is_made_again(
    model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path))  # the cache of the session holds tokens of other tests
    source = locate(str(model_folders["bert"]), "text")
    first = tokenise(SHOP, source, 30)
    real = inputs._tokenised
    monkeypatch.setattr(inputs, "_tokenised", lambda *_: pytest.fail("tokenised twice"))
    assert np.array_equal(tokenise(SHOP, source, 30).ids, first.ids)
    monkeypatch.setattr(inputs, "_tokenised", real)
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
    with pytest.raises(UserError, match="has no images"):
        pixels(dataclasses.replace(SHOP, images=None), 32)


def test_decoders_are_padded_on_the_right_without_a_padding_token(family_folder: FamilyFolder) -> None:
    tokens = tokenise(SHOP, locate(str(family_folder("gpt2")), "text"), 30)
    assert tokens.lengths.tolist() == [len(title.split()) for title in SHOP.titles]
    row = int(tokens.lengths.argmin())
    assert set(tokens.ids[row, tokens.lengths[row] :].tolist()) == {2}  # the end of text
    assert tokens.unknown_share == 0.0


def test_titles_end_where_the_encoders_positions_do(family_folder: FamilyFolder) -> None:
    # RoBERTa counts from behind its padding token: 40 rows are 38 positions.
    for family, most in (("bert", 40), ("roberta", 38), ("modernbert", 40), ("t5", None)):
        assert locate(str(family_folder(family)), "text").preprocessing.positions == most
    source = dataclasses.replace(
        locate(str(family_folder("bert")), "text"), preprocessing=Preprocessing(str(family_folder("bert")), 300, 4)
    )
    assert tokenise(SHOP, source, 30).ids.shape == (60, 4)


def test_siglip_reads_its_padding(family_folder: FamilyFolder) -> None:
    tokens = tokenise(SHOP, locate(str(family_folder("siglip-text")), "text"), 5)
    assert tokens.ids.shape == (60, 20)
    assert set(tokens.lengths.tolist()) == {20}
    assert not tokens.ids[:, 5:].any()
    mask = ItemFeed(tokens).gather(np.arange(3))["attention_mask"]
    assert mask.shape == (3, 20)
    assert mask.all()


def test_an_end_of_text_that_is_called_unknown_is_not_counted(family_folder: FamilyFolder, tmp_path: Path) -> None:
    """As GPT-2 and CLIP have it."""
    shutil.copytree(family_folder("clip-text"), tmp_path / "clip")
    file = tmp_path / "clip" / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "unk_token": "[SEP]"}))
    assert tokenise(SHOP, locate(str(tmp_path / "clip"), "text"), 30).unknown_share == 0.0


@pytest.mark.parametrize(("bos", "eos"), [(True, True), (False, True), (True, False), (False, False)])
def test_ends_that_the_settings_ask_for_are_there(
    bos: bool, eos: bool, family_folder: FamilyFolder, tmp_path: Path
) -> None:
    """tokenizer.json of this family adds nothing, and transformers 5 heeds it alone (mteb, pull request 5237)."""
    shutil.copytree(family_folder("llama"), tmp_path / "llama")
    plain = tokenise(SHOP, locate(str(tmp_path / "llama"), "text"), 6)
    path = tmp_path / "llama" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "add_bos_token": bos, "add_eos_token": eos}))
    tokens = tokenise(SHOP, locate(str(tmp_path / "llama"), "text"), 6)
    for row in range(60):
        words = plain.ids[row, : plain.lengths[row]].tolist()[: 6 - bos - eos]
        expected = [1] * bos + words + [2] * eos
        assert tokens.ids[row, : tokens.lengths[row]].tolist() == expected
        assert tokens.lengths[row] <= 6
