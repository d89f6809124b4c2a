"""What a matrix needs against the files that a run really leaves, disks, and models from the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from bench.cell.run_cell import run_cell
from bench.commands.doctor import storage
from bench.commands.doctor.disk_estimate import DiskEstimate, HubModel, estimate_disk, hub_models
from bench.commands.doctor.finding import GIB
from bench.config.cells import cells
from bench.config.matrix import Matrix, parse
from bench.data import datasets
from bench.data.cache.location import cache_dir
from tests.commands.doctor.levels import level_of
from tests.data.small_amazon import write_amazon
from tests.tiny import matrix

SMALL = DiskEstimate(hidden=GIB, pictures=GIB, unknown=())
HUB_PAIR = [{"text": "somebody/bert", "image": "somebody/vit"}]


def parsed(model_folders: dict[str, Path], **changes: Any) -> Matrix:
    methods = [{"name": "fft"}, {"name": "iisan"}, {"name": "iisan-cached"}]
    return parse(matrix(model_folders, **{"methods": methods, **changes}), "t")


def load_states(file: Path) -> list[Any]:
    with safe_open(file, "numpy") as opened:
        return [opened.get_tensor(name) for name in list(opened.keys())]


def test_the_estimate_is_what_a_run_leaves(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "cache"))
    methods = [{"name": "frozen"}, {"name": "iisan-cached"}, {"name": "all", "kind": "iisan-cached", "layers": "all"}]
    budget = {"steps": 1, "batch_size": 16}
    small = parsed(model_folders, methods=methods, budget=budget, training={"width": 16, "cache_dtype": "float32"})
    for cell in cells(small, "cpu"):
        assert run_cell(cell, tmp_path / cell.cell_id, lambda _: None)["row"]["status"] == "ok"
    files = list((cache_dir() / "hidden").glob("*.safetensors"))
    assert len(files) == 8  # even layers and all layers, of two encoders, for the catalogue and for the probed items
    kept = [tensor for file in files for tensor in load_states(file)]
    new_items = datasets.load_new_items(small.dataset)
    assert new_items is not None
    left_out = datasets.NEW_ITEMS - len(new_items[0].titles)  # those that the shop has already
    per_item = 2 * (3 + 5) * 24 * 4
    assert estimate_disk(small, []).hidden == sum(tensor.nbytes for tensor in kept) + left_out * per_item


@pytest.mark.parametrize(
    ("changes", "hidden"),
    [
        ({}, 2 * (60 + 900) * 3 * 24 * 2),  # two encoders, 60 items, layers 0, 2 and 4 of width 24, 16 bit
        ({"seeds": [0, 1]}, 2 * (60 + 900) * 3 * 24 * 2),  # one file serves both seeds
        ({"modality": ["text"]}, (60 + 900) * 3 * 24 * 2),
        ({"methods": [{"name": "iisan"}, {"name": "lora"}]}, 0),
        ({"methods": [{"name": "iisan", "cached": True}, {"name": "iisan-cached"}]}, 2 * (60 + 900) * 3 * 24 * 2),
    ],
)
def test_the_estimate_by_hand(changes: dict[str, Any], hidden: int, model_folders: dict[str, Path]) -> None:
    need = estimate_disk(parsed(model_folders, **changes), [])
    assert need.hidden == hidden
    assert need.unknown == ()
    assert need.pictures == (0 if changes.get("modality") == ["text"] else 60 * 32 * 32 * 3)


def test_drawn_weights_have_a_cache_per_seed(model_folders: dict[str, Path]) -> None:
    pair = [{"text": "bert-base", "image": "vit-base", "weights": "random"}]
    need = estimate_disk(parsed(model_folders, backbones=pair, seeds=[0, 1, 2]), [])
    assert need.hidden == 3 * 2 * 60 * 7 * 768 * 2
    assert need.pictures == 60 * 224 * 224 * 3


def test_quantised_encoders_have_caches_of_their_own(model_folders: dict[str, Path]) -> None:
    pair = {"text": str(model_folders["bert"]), "image": str(model_folders["vit"])}
    need = estimate_disk(parsed(model_folders, backbones=[pair, pair | {"quantise": "bnb-nf4"}]), [])
    assert need.hidden == 2 * (2 * (60 + 900) * 3 * 24 * 2)


def test_the_items_of_amazon_are_the_lines_of_its_file(model_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write_amazon(tmp_path / "data", {f"i{n}": f"t{n}" for n in range(17)}, {"u": ["i1"] * 6})
    dataset = {"name": "amazon", "data_dir": str(folder)}
    assert estimate_disk(parsed(model_folders, dataset=dataset, modality=["text"]), []).hidden == 17 * 3 * 24 * 2
    dataset["data_dir"] = str(tmp_path / "nowhere")
    need = estimate_disk(parsed(model_folders, dataset=dataset), [])
    assert (need.total, len(need.unknown)) == (0, 1)
    assert "nowhere has no *items.tsv" in need.unknown[0]


def test_an_encoder_that_is_not_here_is_missing_from_the_estimate(model_folders: dict[str, Path]) -> None:
    wanted = parsed(model_folders, backbones=HUB_PAIR)
    need = estimate_disk(wanted, hub_models(wanted))
    assert need.hidden == 0
    assert [name in text for name, text in zip(("somebody/bert", "somebody/vit"), need.unknown, strict=True)] == [
        True,
        True,
    ]


def test_an_encoder_in_the_hub_cache_is_found_there(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--somebody--bert"
    shutil.copytree(model_folders["bert"], place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")
    wanted = parsed(model_folders, backbones=HUB_PAIR)
    text, image = hub_models(wanted)
    assert (text.name, text.folder, text.complete) == ("somebody/bert", place / "snapshots" / "abc", True)
    assert (image.name, image.folder, image.complete) == ("somebody/vit", None, False)
    assert estimate_disk(wanted, [text, image]).hidden == (60 + 900) * 3 * 24 * 2
    for weights in (place / "snapshots" / "abc").glob("*.safetensors"):
        weights.unlink()
    assert not hub_models(wanted)[0].complete


def test_names_that_are_no_hub_ids_are_not_there(model_folders: dict[str, Path]) -> None:
    wanted = parsed(model_folders, backbones=[{"text": "no/such/folder", "image": "shop-full"}])
    assert hub_models(wanted) == [HubModel("no/such/folder", None, False)]


@pytest.mark.parametrize(
    ("free", "writable", "need", "level"),
    [
        (4 * GIB, True, SMALL, "ok"),
        (2 * GIB + 1, True, SMALL, "warning"),
        (2 * GIB - 1, True, SMALL, "wrong"),
        (9 * GIB, False, SMALL, "wrong"),
        (9 * GIB, True, DiskEstimate(GIB, 0, ("the width of x",)), "unknown"),
        (GIB // 2, True, DiskEstimate(GIB, 0, ("the width of x",)), "wrong"),
        (None, True, SMALL, "unknown"),
    ],
)
def test_cache_disk(free: int | None, writable: bool, need: DiskEstimate, level: str) -> None:
    found = storage.cache_disk(Path("/some where/cache"), free, writable, need)
    assert level_of(found) == level


@pytest.mark.parametrize(
    ("free", "writable", "level"),
    [
        (2 * GIB, True, "ok"),
        (GIB // 2, True, "warning"),
        (GIB // 100, True, "wrong"),
        (2 * GIB, False, "wrong"),
        (None, True, "unknown"),
    ],
)
def test_run_disk(free: int | None, writable: bool, level: str) -> None:
    assert level_of(storage.run_disk(Path("runs"), free, writable)) == level


@pytest.mark.parametrize(
    ("models", "readable", "variables", "level", "said"),
    [
        ([], True, {}, "ok", "no encoder of the matrix comes from the hub (online)"),
        ([], False, {"HF_HUB_OFFLINE": "1"}, "ok", "(offline)"),
        ([HubModel("a/b", Path("x"), True)], True, {}, "ok", "a/b: in "),
        ([HubModel("a/b", Path("x"), True)], False, {}, "wrong", "cannot be used"),
        ([HubModel("a/b", None, False)], True, {}, "unknown", "the hub was not contacted"),
        ([HubModel("a/b", None, False)], True, {"HF_HUB_OFFLINE": "true"}, "wrong", "downloads are switched off"),
        ([HubModel("a/b", Path("x"), False)], True, {"TRANSFORMERS_OFFLINE": "1"}, "wrong", "or incomplete: a/b"),
    ],
)
def test_hub(models: list[HubModel], readable: bool, variables: dict[str, str], level: str, said: str) -> None:
    found = storage.hub(models, Path("hub"), readable, variables)
    assert (level_of(found), said in found.finding) == (level, True), found
    if level == "unknown":
        assert found.mend == "hf download a/b"


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    free = storage.free_bytes(tmp_path / "a" / "b")
    assert free is not None
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.05)
    assert storage.nearest_existing(tmp_path / "a" / "b") == tmp_path
