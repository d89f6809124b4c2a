"""Files of a model and the caches of a cell: a cache is named by the content of all that it was computed from."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file

from bench.cell.assemble import Assembly, assemble, locate_encoders
from bench.cell.check_inputs import check_inputs
from bench.cell.hidden_cache import source_digest
from bench.cell.run_cell import run_cell
from bench.data.shop.shop import ShopConfig, make_shop
from bench.models.backbones import locate
from bench.models.inputs import _check_files, tokenise
from bench.models.loading.folder_content import files_digest
from bench.utils.errors import UserError
from tests.models.sentence_folders import BERT_POOLING, sentence_folder
from tests.tiny import FamilyFolder, cell_of

CPU = torch.device("cpu")
SHOP = make_shop(ShopConfig(items=60, users=20))


@pytest.fixture
def folders(model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Copies of a text and an image encoder, and an empty cache."""
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "cache"))
    for family in ("bert", "vit"):
        shutil.copytree(model_folders[family], tmp_path / family)
    return {family: tmp_path / family for family in ("bert", "vit")}


def assembled(folders: dict[str, Path], **changes: object) -> Assembly:
    return assemble(cell_of("iisan-cached", folders, **changes), CPU)


def reused(folders: dict[str, Path], **changes: object) -> dict[str, bool]:
    return {modality: cache.reused for modality, cache in assembled(folders, **changes).caches.items()}


def swap_words(folder: Path) -> None:
    """Exchange the ids of two words in the tokenizer's file."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    one, other = [word for word in words if word.isalpha()][:2]
    words[one], words[other] = words[other], words[one]
    path.write_text(json.dumps(content))


def test_swapped_words_are_encoded_again(folders: dict[str, Path]) -> None:
    before = assembled(folders)
    assert reused(folders) == {"text": True, "image": True}
    swap_words(folders["bert"])
    after = assembled(folders)
    assert not after.caches["text"].reused
    assert after.caches["image"].reused
    assert not np.array_equal(np.asarray(before.caches["text"].states), np.asarray(after.caches["text"].states))


def scale(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("value.weight") or name.endswith("v_proj.weight"))
    save_file(tensors | {name: tensors[name] * 2}, folder / "model.safetensors", metadata={"format": "pt"})


def write(name: str, content: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        old = json.loads(path.read_text()) if path.suffix == ".json" and path.is_file() else {}
        path.write_text(json.dumps({**old, **content}) if isinstance(content, dict) else str(content))

    return change


@pytest.mark.parametrize(
    ("modality", "change"),
    [
        ("text", scale),
        ("image", scale),
        ("text", write("config.json", {"layer_norm_eps": 1e-3})),
        ("text", write("tokenizer_config.json", {"model_max_length": 12})),
        ("text", write("special_tokens_map.json", {"unk_token": "[MASK]"})),
        ("text", write("spiece.model.of.our.own", "x")),
        ("text", write("modeling_own.py", "x = 1")),
        ("text", write("parts/modeling_own.py", "x = 1")),
        ("text", write("1_Pooling/config.json", BERT_POOLING)),
        ("text", write("sentence_bert_config.json", {"do_lower_case": True})),
        ("image", write("preprocessor_config.json", {"resample": 3})),
        ("image", write("preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3]})),
        ("image", write("preprocessor_config.json", {"size": {"shortest_edge": 40}, "crop_size": 32})),
    ],
)
def test_every_file_that_decides_a_state_names_the_cache(
    modality: str, change: Callable[[Path], None], folders: dict[str, Path]
) -> None:
    reused(folders)
    change(folders["bert" if modality == "text" else "vit"])
    assert reused(folders) == {"text": modality != "text", "image": modality != "image"}


def test_neither_place_nor_documents_name_the_cache(folders: dict[str, Path], tmp_path: Path) -> None:
    reused(folders)
    moved = {family: folder.rename(tmp_path / f"moved-{family}") for family, folder in folders.items()}
    for folder in moved.values():
        (folder / "README.md").write_text("more")
        (folder / ".gitattributes").write_text("more")
    assert reused(moved) == {"text": True, "image": True}


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": {"items": 60, "users": 40, "max_tokens": 4}},
        {"training": {"width": 16, "attention": "eager"}},
    ],
)
def test_options_that_decide_a_state_name_the_cache(changes: dict[str, object], folders: dict[str, Path]) -> None:
    reused(folders)
    assert not reused(folders, **changes)["text"]


def test_a_hub_id_is_the_revision_in_the_cache_of_the_hub(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another revision behind the same id has another digest; equal content has the digest of the folder."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    stored = tmp_path / "hub" / "models--own--bert"
    for revision in ("a" * 40, "b" * 40):
        shutil.copytree(folders["bert"], stored / "snapshots" / revision)
    swap_words(stored / "snapshots" / ("b" * 40))
    (stored / "refs").mkdir()
    digests = []
    for revision in ("a" * 40, "b" * 40):
        (stored / "refs" / "main").write_text(revision)
        source = locate("own/bert", "text")
        assert Path(source.location).name == revision
        digests.append(source_digest(source, 0))
    assert len(set(digests)) == 2
    assert digests[0] == source_digest(locate(str(folders["bert"]), "text"), 0)


def test_code_in_another_model_on_the_hub_counts(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    code = tmp_path / "hub" / "models--other--code"
    (code / "snapshots" / "c").mkdir(parents=True)
    (code / "refs").mkdir()
    (code / "refs" / "main").write_text("c")
    write("config.json", {"auto_map": {"AutoModel": "other/code--modeling.Own"}})(folders["bert"])
    digests = set()
    for text in ("x = 1", "x = 2"):
        (code / "snapshots" / "c" / "modeling.py").write_text(text)
        digests.add(files_digest(folders["bert"]))
    assert len(digests) == 2


# Tokenizers that are not there


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "distilbert", "t5", "clip-text", "llama", "qwen2"])
def test_a_model_without_its_tokenizer_is_refused_before_anything_runs(
    family: str, left: tuple[str, ...], family_folder: FamilyFolder, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(family_folder(family), tmp_path / family)
    for name in TOKENIZER_FILES:
        if name not in left:
            (tmp_path / family / name).unlink(missing_ok=True)
    cell = cell_of("fft", {"bert": tmp_path / family, "vit": model_folders["vit"]}, modality=["text"])
    with pytest.raises(UserError, match=r"--text-model .*: no tokenizer files \(.*\) in .*: save the tokenizer"):
        check_inputs([cell])


def test_words_without_merges_are_no_tokenizer(tmp_path: Path) -> None:
    names = {"vocab_file": "vocab.json", "merges_file": "merges.txt", "tokenizer_file": "tokenizer.json"}
    tokenizer = type("Tokenizer", (), {"vocab_files_names": names})()
    for name in ("vocab.json", "merges.txt"):
        with pytest.raises(UserError, match="no tokenizer files"):
            _check_files(tokenizer, tmp_path, "--text-model x")
        (tmp_path / name).write_text("{}")
    _check_files(tokenizer, tmp_path, "--text-model x")


def test_titles_that_become_the_same_tokens_are_refused_with_their_number(folders: dict[str, Path]) -> None:
    """The vocabulary is whole and knows every word, but all words are one token."""
    path = folders["bert"] / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {word: min(id, 5) for word, id in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))
    cell = cell_of("fft", folders)
    with pytest.raises(UserError, match=r"gives \d+ different titles of dataset shop only \d different rows of tokens"):
        check_inputs([cell])
    forced = cell_of("fft", folders, dataset={"items": 60, "users": 40, "force_tokenizer": True})
    assert check_inputs([forced])["encoders"][0]["pooling"] == "cls"


def test_a_class_that_is_not_the_one_of_tokenizer_json_is_refused(
    family_folder: FamilyFolder, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """transformers 5 builds the class that is named, whatever tokenizer.json says (its issue 45920)."""
    shutil.copytree(family_folder("llama"), tmp_path / "llama")
    cell = cell_of("fft", {"bert": tmp_path / "llama", "vit": model_folders["vit"]}, modality=["text"])
    check_inputs([cell])
    write("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizerFast"})(tmp_path / "llama")
    with pytest.raises(UserError, match=r"splits 100% of the titles in another way than its tokenizer\.json; set"):
        check_inputs([cell])


# Towers that say nothing


@pytest.mark.parametrize("method", ["fft", "iisan", "iisan-cached"])
def test_a_tower_that_says_nothing_fails_by_its_name(method: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """The class token of the image encoder sees no patch; text alone would make the fused vectors differ."""
    tensors = load_file(folders["vit"] / "model.safetensors")
    dead = {
        name: torch.zeros_like(value) if ("patch_embeddings" in name and "weight" in name) else value
        for name, value in tensors.items()
    }
    save_file(dead, folders["vit"] / "model.safetensors", metadata={"format": "pt"})
    record = run_cell(cell_of(method, folders), tmp_path / "out", lambda _: None)
    assert record["row"]["status"] == "failed"
    said = record["row"]["error"]
    assert "item_vectors_differ: the image encoder" in said
    assert "(pooling cls: it has a class token) gives all items of a batch the same states" in said
    assert "try another image_pooling" in said


# Case of titles


def test_case_is_left_to_the_tokenizer_unless_asked_otherwise(model_folders: dict[str, Path], tmp_path: Path) -> None:
    cased = tmp_path / "cased"
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "Oak": 5, "oak": 6, "lamp": 7}
    shutil.copytree(
        model_folders["bert"], cased, ignore=lambda _, names: [n for n in names if "token" in n or "vocab" in n]
    )
    t.BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(cased)
    titles = dataclasses.replace(SHOP, titles=("Oak lamp", *["oak lamp"] * 59), digest="cased")
    source = locate(str(cased), "text")
    assert tokenise(titles, source, 30).ids[:2, :4].tolist() == [[2, 5, 7, 3], [2, 6, 7, 3]]
    assert tokenise(titles, source, 30, lower_case=True).ids[0, :4].tolist() == [2, 6, 7, 3]
    (cased / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    assert tokenise(titles, locate(str(cased), "text"), 30).ids[0, :4].tolist() == [2, 6, 7, 3]
    shop = make_shop(ShopConfig(items=200, users=20))
    built_in = locate("shop-absent", "text")
    lower, as_is = (tokenise(shop, built_in, 30, lower_case=each) for each in (True, False))
    assert np.array_equal(lower.ids, as_is.ids)


def test_the_case_of_titles_is_recorded(folders: dict[str, Path]) -> None:
    for lower, said in ((True, "lower-cased (option lower_case)"), (False, "case left to the tokenizer")):
        cell = cell_of("fft", folders, dataset={"items": 60, "users": 40, "lower_case": lower})
        assert said in check_inputs([cell])["encoders"][0]["items"]


def test_a_pooling_that_does_not_exist_shows_before_anything_runs(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = sentence_folder(folders["bert"], tmp_path / "st", {"pooling_mode_max_tokens": True})
    cell = cell_of("fft", {"bert": folder, "vit": folders["vit"]})
    assert locate_encoders(cell, "pretrained")
    with pytest.raises(UserError, match="asks for the pooling max_tokens"):
        check_inputs([cell])
