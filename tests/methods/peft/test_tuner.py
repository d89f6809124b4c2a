"""Any tuner of peft: the table of what runs, roles against counts, and what is refused."""

import json
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import run_bench
from bench.config.matrix import build_method, parse
from bench.utils.errors import UserError
from methods.peft.lora import LoRA
from methods.peft.tried_tuners import MODALITIES, read_table, tuners
from methods.peft.tuner import Tuner
from tests.helpers import encoder, inputs, text_inputs
from tests.methods.peft.peft_trial import NEEDS, kinds, save_folders, trial
from tests.tiny import FamilyFolder, matrix

Folders = dict[str, Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return save_folders(tmp_path_factory.mktemp("trial"))


@pytest.mark.skipif(version("peft") != read_table()["peft"], reason="the table is of another version of peft")
@pytest.mark.parametrize("kind", kinds())
def test_the_table_of_tuners_is_true(kind: str, folders: Folders) -> None:
    if kind in NEEDS:
        pytest.importorskip(NEEDS[kind], reason=f"{kind} needs it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {modality: trial(kind, modality, folders[modality]) for modality in MODALITIES}
    assert found == {modality: read_table()["tuners"][kind][modality] for modality in MODALITIES}


def test_the_list_has_every_tuner_and_says_where_it_ran() -> None:
    listed = {t["name"]: t for t in tuners()}
    assert list(listed) == kinds()
    assert listed["IA3"]["runs"] == "text+image"
    assert listed["PROMPT_TUNING"]["runs"] == "text"
    assert all(t["runs"] == "text+image" or t["why_not"] for t in listed.values())


def adapted(peft: dict[str, Any], folder: Path, modality: str) -> tuple[int, int]:
    e = encoder(folder, modality)
    e.requires_grad_(False)
    done = Tuner(peft=peft).adapt(e)
    return done.modules, sum(p.numel() for p in done.parameters)


@pytest.mark.parametrize(("family", "modality"), [("bert", "text"), ("vit", "image"), ("distilbert", "text")])
def test_roles_are_found_in_each_family(family: str, modality: str, model_folders: Folders) -> None:
    """4 layers of width 24, MLP 48: every role has so many maps, each with r (in + out) trained values."""
    narrow, wide = 2 * (24 + 24), 2 * (24 + 48)
    for target, expected in {
        "query": (4, 4 * narrow),
        "output": (4, 4 * narrow),
        "mlp": (8, 8 * wide),
        "mlp-output": (4, 4 * wide),
        "all-linear": (24, 16 * narrow + 8 * wide),
    }.items():
        assert adapted({"type": "LORA", "r": 2, "target": target}, model_folders[family], modality) == expected
    both = {"type": "lora", "r": 2, "target": ["key", "value"]}
    assert adapted(both, model_folders[family], modality) == (8, 8 * narrow)
    # IA3: a vector on keys and values, and on what goes into the second map of the MLP.
    assert adapted({"type": "IA3"}, model_folders[family], modality) == (12, 4 * (24 + 24 + 48))
    assert adapted({"type": "LN_TUNING"}, model_folders[family], modality) == (8, 8 * 2 * 24)


@pytest.mark.parametrize(("family", "modality"), [("bert", "text"), ("vit", "image")])
def test_lora_by_options_is_the_method_lora(family: str, modality: str, model_folders: Folders) -> None:
    outputs = []
    for method in (LoRA(rank=4, alpha=8), Tuner(peft={"type": "LORA", "r": 4, "lora_alpha": 8})):
        e = encoder(model_folders[family], modality)
        e.requires_grad_(False)
        torch.manual_seed(5)
        parameters = list(method.adapt(e).parameters)
        for p in parameters:
            torch.nn.init.normal_(p, std=0.1)
        outputs.append(e(inputs(modality)))
    assert torch.equal(*outputs)
    assert not torch.allclose(outputs[0], encoder(model_folders[family], modality)(inputs(modality)), atol=1e-3)


def test_a_role_that_hits_nothing_is_refused(family_folder: FamilyFolder) -> None:
    e = encoder(family_folder("convnext"), "image")
    with pytest.raises(UserError, match="ConvNextModel has no query map"):
        Tuner(peft={"type": "LORA"}).adapt(e)
    assert Tuner(peft={"type": "LORA", "target": "mlp"}).adapt(e).modules == 6


@pytest.mark.parametrize(
    ("peft", "said"),
    [
        ({"type": "IA4"}, "option peft: unknown type 'IA4'; did you mean 'IA3'?"),
        ({}, "option peft: type is missing"),
        ({"type": "LORA", "lora_alfa": 3}, "LORA has no option 'lora_alfa'; did you mean 'lora_alpha'?"),
        ({"type": "LORA", "inference_mode": True}, "LORA has no option 'inference_mode'"),
        ({"type": "LORA", "target": ["quary"]}, "unknown target 'quary'; did you mean 'query'?"),
        ({"type": "LORA", "target": []}, "target is empty"),
        ({"type": "LORA", "target": "key", "target_modules": ["key"]}, "exclude each other"),
        ({"type": "POLY"}, "POLY: it needs a task number"),
        ({"type": "P_TUNING"}, "P_TUNING needs num_virtual_tokens"),
        ({"type": "P_TUNING", "num_virtual_tokens": 3, "target": "query"}, "P_TUNING has no target"),
        ({"type": "OFT", "r": 2, "oft_block_size": 3}, "OFT: "),
        ({"type": "LORA", "target": 3}, "target must be a role"),
        ({"type": "LORA", "target": "query", "layers_to_transform": [0]}, "layers_to_transform has no effect"),
        ({"type": "ADALORA", "init_r": "x"}, "init_r must be a whole number"),
        ({"type": "ADALORA", "tinit": "x"}, "tinit must be a whole number"),
        ({"type": "ADALORA", "deltaT": 1.5}, "deltaT must be a whole number"),
    ],
)
def test_bad_options_are_one_line_before_anything_runs(peft: dict[str, Any], said: str, model_folders: Folders) -> None:
    methods = [{"name": "mine", "peft": peft}]
    config = parse(matrix(model_folders, methods=methods), "m.toml").methods[0]
    assert config.kind == "peft"
    with pytest.raises(UserError) as raised:
        build_method(config, "m.toml")
    assert str(raised.value).startswith("m.toml: method mine: ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_peft_refuses_is_one_line(model_folders: Folders) -> None:
    for peft in ({"type": "LORA", "r": 0}, {"type": "ROAD", "group_size": 7}, {"type": "LORA", "target_modules": "no"}):
        with pytest.raises(UserError) as raised:
            Tuner(peft=peft).adapt(encoder(model_folders["vit"], "image"))
        assert "\n" not in str(raised.value)


def test_virtual_tokens_are_taken_off_again(model_folders: Folders) -> None:
    e, x = encoder(model_folders["bert"], "text"), text_inputs()
    plain: Callable[..., Any] = encoder(model_folders["bert"], "text").output
    Tuner(peft={"type": "PROMPT_TUNING", "num_virtual_tokens": 3}).adapt(e)
    states = e.output(x)
    assert states.shape == plain(x).shape
    assert not torch.allclose(states, plain(x), atol=1e-4)
    # What is left are the title's tokens: another last word moves its own state most.
    other = {k: v.clone() for k, v in x.items()}
    other["input_ids"][0, 8] = 5 if x["input_ids"][0, 8] != 5 else 6
    assert (e.output(other) - states)[0].norm(dim=-1).argmax() == 8
    with pytest.raises(UserError, match="more than the encoder's 40"):
        e.output({k: v.repeat(1, 5)[:, :38] for k, v in x.items()})
    with pytest.raises(UserError, match="only for text"):
        Tuner(peft={"type": "P_TUNING", "num_virtual_tokens": 3}).adapt(encoder(model_folders["vit"], "image"))


def test_list_peft_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bench.main(["list", "--peft", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in listed["tuners"]] == kinds()
    assert {t["name"]: t["runs"] for t in listed["tuners"]}["P_TUNING"] == "text"
