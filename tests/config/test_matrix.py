import copy
import datetime
import tomllib
from pathlib import Path
from typing import Any

import pytest

from bench.config.cells import Cell, cells
from bench.config.matrix import MethodConfig, build_method, parse, preset_names, read_preset, read_toml, to_toml
from bench.config.recipes import expand_datasets
from bench.utils.errors import UserError
from tests.tiny import BASE


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_come_back_from_their_resolved_form(name: str) -> None:
    data = read_preset(name)
    if name == "amazon":
        data["dataset"]["data_dir"] = "somewhere"
    for recipe in expand_datasets(data, name):
        matrix = parse(recipe, name)
        assert parse(tomllib.loads(to_toml(matrix)), name) == matrix
        assert all(build_method(method, name) for method in matrix.methods)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": [1]}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"budget": {"epochs": 0}}, "budget.epochs: .* greater than or equal to 1, got 0"),
        ({"budget": {"epochs": -3}}, "budget.epochs"),
        ({"budget": {"seconds": float("inf")}}, "budget.seconds"),
        ({"budget": {"batch_size": 10**9, "epochs": 1}}, "budget.batch_size"),
        ({"budget": {"epochs": 1, "steps": 3}}, "exactly one of"),
        ({"budget": {}}, "exactly one of"),
        ({"budget": {"epoch": 3}}, "unknown key 'budget.epoch'; did you mean 'epochs'"),
        ({"training": {"dropuot": 0.1}}, "did you mean 'dropout'"),
        ({"backbones": [{"txt": "a"}]}, "did you mean 'text'"),
        ({"methods": [{"name": "lorra"}]}, "unknown method 'lorra'; did you mean 'lora'"),
        ({"methods": []}, "methods"),
        ({"methods": "lora"}, "methods must be tables"),
        ({"methods": [{"kind": "lora"}]}, "needs a name"),
        ({"methods": [{"name": "../x", "kind": "lora"}]}, "methods, the 1st: name: must be"),
        ({"methods": [{"name": "lora"}, {"name": "lora"}]}, "given twice: lora"),
        ({"name": "../../etc"}, "name"),
        ({"dataset": {"name": "shp"}}, "dataset.name"),
        ({"dataset": {"name": "amazon"}}, "needs --data-dir"),
        ({"dataset": {"name": "table"}}, "dataset table needs --data-dir"),
        ({"dataset": {"split": "temporal", "valid_from": 1, "test_from": 2}}, "dataset shop has no timestamps"),
        ({"dataset": {"name": "amazon", "data_dir": "x", "split": "temporal"}}, "dataset amazon has no timestamps"),
        ({"dataset": {"name": "table", "data_dir": "x", "split": "temporal", "valid_from": 1}}, "needs .*--test-from"),
        ({"dataset": {"name": "table", "data_dir": "x", "test_from": 1}}, "--test-from: needs --split temporal"),
        ({"dataset": {"columns": {"user": "x"}}}, "--user-column: dataset shop has no columns to name"),
        ({"dataset": {"columns": {"usr": "x"}}}, "unknown key 'dataset.columns.usr'; did you mean 'user'"),
        ({"dataset": {"name": "table", "data_dir": "x", "columns": {"user": ""}}}, "dataset.columns.user"),
        ({"device": "gpu"}, "device"),
        ({"precision": "fp8"}, "precision"),
        ({"modality": "audio"}, "modality"),
        ({"seeds": [0, 0]}, "given twice: 0"),
        ({"seeds": [-1]}, "seeds, the 1st: "),
        ({"seeds": []}, "seeds: must hold at least one"),
        ({"seeds": "0"}, "seeds, the 1st: must be a whole number, got '0'"),
        ({"seeds": [0, 1.0]}, "seeds, the 2nd: must be a whole number"),
        ({"seeds": [True]}, "seeds, the 1st: must be a whole number, got True"),
        ({"dataset": {"force_tokenizer": "yes"}}, "dataset.force_tokenizer: must be true or false, got 'yes'"),
        ({"dataset": {"force_tokenizer": 1}}, "dataset.force_tokenizer: must be true or false"),
        ({"dataset": {"items": "700"}}, "dataset.items: must be a whole number"),
        ({"dataset": {"data_dir": 3}}, "dataset.data_dir: must be text"),
        ({"dataset": 3}, "dataset must be a table"),
        ({"dataset": {"bad_images": "drop"}}, "dataset.bad_images: must be 'fail', 'drop-item' or 'mean-image'"),
        ({"backbones": {"text": "a"}}, "backbones must be tables"),
        ({"backbones": [{"trust_remote_code": "yes"}]}, "backbones, the 1st: trust_remote_code: must be true or false"),
        ({"backbones": [{}, {"txt": "a"}]}, "backbones, the 2nd: unknown key 'txt'; did you mean 'text'"),
        ({"backbones": [{"text": "a"}, {"text": "a"}]}, "backbones: given twice: a \\+ shop-mixed, pretrained"),
        ({"training": {"dropout": float("nan")}}, "training.dropout"),
        ({"training": {"clip_norm": float("inf")}}, "training.clip_norm: must be finite"),
        ({"training": {"lr_warmup_steps": datetime.date(2024, 1, 1)}}, "no key takes a date"),
        ({"device": "foo"}, "device: must be auto, cpu, cuda or cuda:N, got 'foo'"),
        ({"device": "cuda:٣"}, "device: must be auto"),
        ({"name": "a b"}, "name: must be at most 64 letters"),
        ({"methods": [{"name": "lora", "options": 3}]}, "options must be a table"),
        ({"methods": [{"name": "lora", "kind": ["lora"]}]}, "unknown method"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        parse({**copy.deepcopy(BASE), **change}, "file.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("file.toml")


def test_a_value_from_the_command_line_is_named_by_its_option() -> None:
    data = {**BASE, "budget": {"epochs": 0}}
    with pytest.raises(UserError, match=r"^--epochs: "):
        parse(data, "preset default", {("budget", "epochs"): "--epochs"})


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"name = \nb = 1\n", "line 1"), (b"\xff\xfe", "not UTF-8"), (b"a = 1\na = 2\nb = 3\n", "line 2")],
)
def test_malformed_files_are_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_toml(path)
    assert str(path) in str(caught.value)


def test_whole_numbers_stand_for_real_ones() -> None:
    matrix = parse({**copy.deepcopy(BASE), "training": {"clip_norm": 5}, "budget": {"seconds": 3}}, "f")
    assert (matrix.training.clip_norm, matrix.budget.seconds) == (5.0, 3.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": "16"}, "option rank: must be a whole number, got '16'"),
        ({"rank": 16.0}, "option rank: must be a whole number, got 16.0"),
        ({"lr": "1e-3"}, "option lr: must be a number"),
        ({"lr": datetime.time(1)}, "option lr: no key takes a date"),
    ],
)
def test_options_of_methods_are_taken_by_their_type(options: dict[str, Any], said: str) -> None:
    matrix = parse({"name": "t", "methods": [{"name": "lora", "options": options}]}, "f") if "16" in said else None
    config = matrix.methods[0] if matrix else MethodConfig("lora", "lora", options)
    with pytest.raises(UserError, match=said):
        build_method(config, "f")


@pytest.mark.parametrize("content", [b"a = " + b"[" * 5000, b"a = " + b"9" * 5000])
def test_files_that_python_itself_stumbles_over(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_toml(path)


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "a"\r\nseeds = [1]\r\n')
    assert read_toml(path) == {"name": "a", "seeds": [1]}


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_toml(tmp_path / "nothing.toml")


def test_cells_are_the_product_with_stable_ids() -> None:
    data = {**copy.deepcopy(BASE), "seeds": [0, 1], "modality": ["text", "image"]}
    made = cells(parse(data, "f"), "cpu")
    assert len(made) == 2 * 2 * 2
    assert len({cell.cell_id for cell in made}) == 8
    assert [c.cell_id for c in made] == [c.cell_id for c in cells(parse(data, "f"), "cpu")]
    assert all(Cell.from_json(cell.to_json()) == cell for cell in made)
    data["training"] = {"dropout": 0.2}
    assert not {c.cell_id for c in made} & {c.cell_id for c in cells(parse(data, "f"), "cpu")}


def test_moments_may_be_numbers_or_dates_and_come_back() -> None:
    dataset = tomllib.loads("""
        name = "table"
        data_dir = "x"
        split = "temporal"
        valid_from = 2024-05-01
        test_from = 1714521600
        columns = { item = "asin" }
    """)
    matrix = parse({**copy.deepcopy(BASE), "dataset": dataset}, "file.toml")
    assert (matrix.dataset.valid_from, matrix.dataset.test_from) == ("2024-05-01", "1714521600")
    assert matrix.dataset.columns.item == "asin"
    assert parse(tomllib.loads(to_toml(matrix)), "t") == matrix
    cell = cells(matrix, "cpu")[0]
    assert Cell.from_json(cell.to_json()) == cell


def test_the_earlier_name_of_a_pair_means_the_present_one() -> None:
    earlier, present = (
        parse({**BASE, "backbones": [{"text": name, "image": name}]}, "file.toml")
        for name in ("shop-partial", "shop-absent")
    )
    assert earlier == present
    assert [cell.cell_id for cell in cells(earlier, "cpu")] == [cell.cell_id for cell in cells(present, "cpu")]
    assert {cell.shown_model("text") for cell in cells(earlier, "cpu")} == {"shop-absent"}
