"""What cells leave of what they trained, read back: by peft itself, and by the harness."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from bench.cell.assemble import Assembly, assemble
from bench.cell.run_cell import run_cell
from bench.cell.saved_weights import CONFIG, TENSORS, load_encoder, load_network, save_adapters
from bench.config.cells import Cell, cells
from bench.config.matrix import parse, to_toml
from bench.models.encoders import Encoder
from bench.models.hidden_states import LiveHiddenStates
from bench.records.run_folder import first_difference
from bench.utils.errors import UserError
from tests.helpers import encoder, inputs
from tests.tiny import cell_of, matrix

CPU = torch.device("cpu")
Folders = dict[str, Path]
FAMILIES = {"text": "bert", "image": "vit"}


def trained(cell: Cell, folder: Path) -> Assembly:
    """Assembled, moved as training would, and saved."""
    made = assemble(cell, CPU)
    torch.manual_seed(4)
    for group in made.groups:
        for parameter in group.parameters:
            parameter.data += 0.1 * torch.randn_like(parameter)
    made.model.eval()
    save_adapters(cell, made.model.item_encoder, made.data.sources, folder)
    return made


def plain(model_folders: Folders, modality: str) -> Encoder:
    return encoder(model_folders[FAMILIES[modality]], modality)


def method(table: dict[str, Any], model_folders: Folders) -> Cell:
    return cells(parse(matrix(model_folders, methods=[table]), "t"), "cpu")[0]


@pytest.mark.parametrize(
    "table",
    [{"name": "lora"}, {"name": "mine", "peft": {"type": "LOKR", "r": 2}}, {"name": "ia3", "peft": {"type": "IA3"}}],
)
def test_peft_reads_its_own_format(table: dict[str, Any], model_folders: Folders, tmp_path: Path) -> None:
    made = trained(method(table, model_folders), tmp_path)
    for e in made.encoders:
        x, fresh = inputs(e.modality), plain(model_folders, e.modality)
        assert not torch.allclose(fresh(x), e(x), atol=1e-3)
        PeftModel.from_pretrained(fresh.model, tmp_path / "adapter" / e.modality)
        assert torch.allclose(fresh.eval()(x), e(x), atol=1e-6)


@pytest.mark.parametrize("name", ["adapter", "bitfit", "prefix", "fft"])
def test_an_encoder_comes_back(name: str, model_folders: Folders, tmp_path: Path) -> None:
    made = trained(method({"name": name}, model_folders), tmp_path)
    for e in made.encoders:
        x, fresh = inputs(e.modality), plain(model_folders, e.modality)
        assert not torch.allclose(fresh(x), e(x), atol=1e-3)
        folder = tmp_path / "adapter" / e.modality
        load_encoder(folder, fresh)
        assert torch.equal(fresh.eval()(x), e(x))
    with pytest.raises(UserError, match="not weights of the text encoder"):
        load_encoder(folder, plain(model_folders, "text"))
    with pytest.raises(UserError, match="not weights of a method that reads hidden states"):
        load_network(folder, torch.nn.Identity())


@pytest.mark.parametrize("name", ["iisan", "iisan-cached"])
def test_iisan_comes_back_over_live_states(name: str, model_folders: Folders, tmp_path: Path) -> None:
    made = trained(method({"name": name}, model_folders), tmp_path)
    encoders = {m: plain(model_folders, m) for m in FAMILIES}
    kept = dict.fromkeys(FAMILIES, (0, 2, 4))
    back = load_network(tmp_path / "adapter" / "text+image", LiveHiddenStates(encoders, kept)).eval()
    x = {**inputs("text"), **inputs("image")}
    states = {m: e.hidden_states(x, kept[m]) for m, e in encoders.items()}
    assert torch.equal(back(x), made.model.item_encoder.head(states))
    assert torch.equal(back.head.state_dict()["fuse.weight"], made.model.item_encoder.head.state_dict()["fuse.weight"])


def test_what_does_not_fit_is_told(model_folders: Folders, tmp_path: Path) -> None:
    trained(method({"name": "adapter", "bottleneck": 4}, model_folders), tmp_path)
    folder = tmp_path / "adapter" / "text"
    facts = json.loads((folder / CONFIG).read_text())
    assert (facts["method"], facts["options"]) == ("adapter", {"bottleneck": 4})
    (folder / CONFIG).write_text(json.dumps(facts | {"options": {"bottleneck": 5}}))
    with pytest.raises(UserError, match=f"{TENSORS}: does not fit this encoder, e.g. "):
        load_encoder(folder, plain(model_folders, "text"))
    for content, said in (("{}", "not a description of saved"), ("[", "not a description of saved")):
        (folder / CONFIG).write_text(content)
        with pytest.raises(UserError, match=said):
            load_encoder(folder, plain(model_folders, "text"))
    with pytest.raises(UserError, match="No such file"):
        load_encoder(tmp_path / "nowhere", plain(model_folders, "text"))


@pytest.mark.usefixtures("no_plan")
def test_a_cell_leaves_them_on_request_and_stays_the_same_cell(model_folders: Folders, tmp_path: Path) -> None:
    cell = cell_of("lora", model_folders, budget={"steps": 2, "batch_size": 16})
    asked = dataclasses.replace(cell, save_adapters=True)
    numbers = []
    for number, each in enumerate((cell, asked)):
        record = run_cell(each, tmp_path / str(number), lambda _: None)
        assert record["row"]["status"] == "ok"
        assert not [w for w in record["warnings"] if "adapters" in w]
        numbers.append((record["row"]["hr@10"], [p["loss"] for p in record["curve"]]))
    assert numbers[0] == numbers[1]
    assert not (tmp_path / "0" / "adapter").exists()
    for modality in FAMILIES:
        assert {CONFIG, TENSORS} <= {p.name for p in (tmp_path / "1" / "adapter" / modality).iterdir()}
    recipes = [parse(matrix(model_folders, **more), "t") for more in ({}, {"save_adapters": True})]
    assert len({c.cell_id for recipe in recipes for c in cells(recipe, "cpu")}) == len(recipes[0].methods)
    assert first_difference(*map(to_toml, recipes)) == ""
