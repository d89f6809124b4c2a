"""A saved adapter on the plain encoder, loaded anew with other random numbers, gives the vectors that were trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from bench.utils.errors import UserError
from methods.peft.tuner import Tuner
from tests.helpers import encoder, inputs

Folders = dict[str, Path]
NITER = {"init_lora_weights": "pissa_niter_4"}


@pytest.mark.parametrize(
    "options",
    [
        NITER,
        {**NITER, "use_dora": True},
        {**NITER, "use_rslora": True},
        {**NITER, "bias": "all"},
        {**NITER, "rank_pattern": {r".*\.1\..*": 3}, "alpha_pattern": {r".*\.2\..*": 5}},
        {**NITER, "use_rslora": True, "rank_pattern": {r".*\.1\..*": 3}, "alpha_pattern": {r".*\.2\..*": 5}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": False},
        {"use_dora": True},
        {"kasa_config": {}},
        {"monteclora_config": {}},
        {"velora_config": {}},
        {"type": "MISS", "r": 4, "init_weights": "bat"},
        {"type": "PSOFT", "r": 4, "ab_svd_init": "pissa_init", "psoft_svd": "lowrank"},
        {"type": "OSF", "effective_rank": 4},
        {"type": "DEFT", "decomposition_method": "qr"},
        {"type": "SHIRA", "r": 2},
        {"type": "VERA", "save_projection": False},
        {"type": "RANDLORA", "save_projection": False, "sparse": True},
        {"type": "PVERA", "save_projection": False},
        {"type": "TINYLORA", "save_projection": False},
        {"type": "SUPERTUNING", "save_precomputed_indices": False},
        {"type": "VBLORA", "vector_length": 8, "num_vectors": 16, "save_only_topk_weights": True},
    ],
    ids=str,
)
@pytest.mark.parametrize(("family", "modality"), [("bert", "text"), ("vit", "image")])
def test_what_is_saved_is_what_was_trained(
    options: dict[str, Any], family: str, modality: str, model_folders: Folders, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    trained, x = encoder(model_folders[family], modality), inputs(modality)
    trained.requires_grad_(False)
    done = Tuner(peft={"type": "LORA", **options}).adapt(trained)
    for parameter in done.parameters:
        parameter.data += 0.02 * torch.randn_like(parameter)
    vectors = trained.eval()(x).detach()
    assert done.save is not None
    done.save(tmp_path)
    torch.manual_seed(77)
    fresh = encoder(model_folders[family], modality)
    assert not torch.allclose(fresh(x), vectors, atol=1e-4)
    PeftModel.from_pretrained(fresh.model, tmp_path)
    assert torch.allclose(fresh.eval()(x), vectors, atol=1e-5)
    assert torch.equal(trained(x), vectors)  # saving has changed nothing


def test_an_embedding_with_a_residual_start_comes_back(model_folders: Folders, tmp_path: Path) -> None:
    e, x = encoder(model_folders["bert"], "text"), inputs("text")
    done = Tuner(peft={"type": "LORA", **NITER, "target_modules": ["word_embeddings", "query"]}).adapt(e)
    for parameter in done.parameters:
        parameter.data += 0.02 * torch.randn_like(parameter)
    assert done.save is not None
    done.save(tmp_path)
    fresh = encoder(model_folders["bert"], "text")
    PeftModel.from_pretrained(fresh.model, tmp_path)
    assert torch.allclose(fresh.eval()(x), e.eval()(x), atol=1e-5)


def test_a_residual_is_saved_as_a_plain_lora(model_folders: Folders, tmp_path: Path) -> None:
    e = encoder(model_folders["bert"], "text")
    done = Tuner(peft={"type": "LORA", "r": 4, "lora_alpha": 8, **NITER}).adapt(e)
    assert done.save is not None
    done.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["init_lora_weights"], config["r"], config["lora_alpha"]) == (True, 8, 16)
    assert e.model.peft_config["default"].r == 4


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"type": "LORA", "init_lora_weights": "eva"}, "needs activations of the training data"),
        ({"type": "LORA", "init_lora_weights": "corda"}, "needs activations of the training data"),
        ({"type": "LORA", "init_lora_weights": "lora_ga"}, "needs gradients of the training data"),
        ({"type": "ADALORA", "init_lora_weights": "pissa"}, "init_lora_weights has no effect"),
        ({"type": "LORA", "alora_invocation_tokens": [5]}, "alora_invocation_tokens works only in causal"),
        ({"type": "OSF", "target_svd_config": {"query": 2}}, "target_svd_config has no effect"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(peft: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Tuner(peft=peft)
