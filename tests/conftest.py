"""Tiny encoders, saved as folders the way a user would have them, and a cache of the test run's own."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    DeiTConfig,
    DeiTModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from bench.data.shop import world
from methods.registry import FROM_FILES
from tests import zoo

FamilyFolder = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE_LIMIT", "")
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))


@pytest.fixture(autouse=True)
def no_methods_of_other_tests() -> Iterator[None]:
    yield
    FROM_FILES.clear()


VOCABULARY = {word: i for i, word in enumerate(world.vocabulary())}
SMALL = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 24}
PICTURE = {"image_size": 32, "patch_size": 16}


def small_model(family: str) -> PreTrainedModel:
    """A randomly drawn encoder of a family, 4 layers of 24."""
    torch.manual_seed(0)
    match family:
        case "bert":
            return BertModel(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **SMALL))
        case "distilbert":
            return DistilBertModel(
                DistilBertConfig(
                    vocab_size=len(VOCABULARY), max_position_embeddings=40, dim=24, hidden_dim=48, n_layers=4, n_heads=2
                )
            )
        case "vit":
            return ViTModel(ViTConfig(**SMALL, **PICTURE))
        case "deit":
            return DeiTModel(DeiTConfig(**SMALL, **PICTURE))
    raise ValueError(family)


TEXT_FAMILIES = ("bert", "distilbert")
IMAGE_FAMILIES = ("vit", "deit")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family -> folder with weights, configuration and, for text, a tokenizer."""
    base = tmp_path_factory.mktemp("models")
    for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES):
        small_model(family).save_pretrained(base / family)
        if family in TEXT_FAMILIES:
            BertTokenizer(vocab=VOCABULARY, model_max_length=40).save_pretrained(base / family)
    return {family: base / family for family in (*TEXT_FAMILIES, *IMAGE_FAMILIES)}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> FamilyFolder:
    """Gives the folder of a family of ``tests.zoo``, made when it is first asked for."""
    base = tmp_path_factory.mktemp("families")

    @cache
    def made(family: str) -> Path:
        zoo.save(family, base / family)
        return base / family

    return made
