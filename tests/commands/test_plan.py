"""The plan command: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bench.commands import plan
from bench.commands.arguments import Parser
from bench.scoring.roofline import CARDS
from bench.utils.errors import UserError
from methods.registry import REGISTRY
from tests.tiny import matrix


def call(*arguments: str) -> int:
    parser = Parser()
    plan.add_arguments(parser)
    return plan.run(parser.parse_args(arguments))


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(matrix(model_folders)), encoding="utf-8")
    return str(path)


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, dict[str, Any]]:
    assert call(*arguments, "--json") == 0
    printed = capsys.readouterr()
    assert "plan: " in printed.err
    return {row["method"]: row for row in json.loads(printed.out)}


@pytest.mark.slow
def test_json_is_a_list_with_an_object_per_method(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, "--config", recipe)
    assert list(found) == list(REGISTRY)
    for name, row in found.items():
        parts = ("parameters", "gradients", "optimizer", "activations", "cache", "rest")
        assert sum(row[part] for part in parts) == row["peak_memory_bytes"]
        assert (row["batch_size"], row["shapes"], row["precision"]) == (16, "data", "fp32")
        assert row["items_per_step"] <= 60
        assert row["flops_forward"] > 0
        assert (row["cache_bytes"] is None) == (row["cache_items"] is None) != bool(REGISTRY[name].preset.get("cached"))
        assert "step_seconds_lower_bound" not in row
        assert "largest_batch_size" not in row
    assert found["iisan-cached"]["cache_items"] == 60
    assert found["iisan-cached"]["cache_bytes"] == 60 * 2 * 3 * 24 * 2


def test_options_change_the_plan(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--config", recipe, "--methods", "lora,iisan-cached", "--modality", "image")
    found = rows(capsys, *arguments, "--batch-size", "4", "--precision", "bf16", "--shapes", "full", "--items", "1000")
    assert list(found) == ["lora", "iisan-cached"]
    row = found["iisan-cached"]
    assert (row["batch_size"], row["items_per_step"], row["precision"], row["tokens"]) == (4, 44, "bf16", 30)
    assert (row["modality"], row["text_model"]) == ("image", None)
    assert row["cache_bytes"] == 1000 * 3 * 24 * 2
    cached = rows(capsys, "--config", recipe, "--methods", "frozen", "--hidden-states", "cached")["frozen"]
    assert (cached["modality"], cached["cache_bytes"]) == ("text+image", 60 * 2 * 1 * 24 * 2)


@pytest.mark.slow
def test_every_dataset_is_planned(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [{"name": name} for name in ("frozen", "iisan-cached")]
    tiny = {"methods": methods, "modality": ["text"]}
    tables = [{"seed": 1}, {"seed": 2, "items": 50}, {"seed": 1, "users": 40}]
    each = {}
    for name, dataset in zip("abc", tables, strict=True):
        whole = matrix(model_folders, **tiny, dataset={"items": 60, "users": 40, **dataset})
        path = tmp_path / f"{name}.toml"
        path.write_text(tomli_w.dumps(whole), encoding="utf-8")
        assert call("--config", str(path), "--json") == 0
        each[name] = json.loads(capsys.readouterr().out)
    path = tmp_path / "all.toml"
    path.write_text(tomli_w.dumps(matrix(model_folders, **tiny, datasets=tables)), encoding="utf-8")
    assert call("--config", str(path), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row.pop("run") for row in found] == [f"t-{n}" for n in ("shop-1", "shop-2", "shop-1.2") for _ in methods]
    assert found == [{k: v for k, v in row.items() if k != "run"} for rows in each.values() for row in rows]
    assert each["a"] != each["b"]
    # The first and the third are the same data: one block says so.
    assert call("--config", str(path)) == 0
    blocks = capsys.readouterr().out
    assert [line for line in blocks.splitlines() if line.startswith("t-")] == ["t-shop-1, t-shop-1.2:", "t-shop-2:"]
    assert blocks.count("iisan-cached") == 2
    assert call("--config", str(path), "--shapes", "full") == 0
    assert capsys.readouterr().out.splitlines()[0] == "t-shop-1, t-shop-2, t-shop-1.2:"


def test_a_configuration_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    row = rows(capsys, "--text-model", "bert-base", "--modality", "text", "--methods", "lora", "--batch-size", "2")[
        "lora"
    ]
    assert (row["shapes"], row["items_per_step"], row["tokens"]) == ("full", 22, 30)
    assert row["total_params"] > 108_000_000


def test_bounds_from_a_card_and_from_figures(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ("--config", recipe, "--methods", "fft", "--modality", "text")
    card = CARDS["l4"]
    by_card = rows(capsys, *tiny, "--card", "L4")["fft"]
    figures = ("--peak-flops", str(card.fp32), "--bandwidth", str(card.bandwidth))
    by_figures = rows(capsys, *tiny, *figures)["fft"]
    assert by_card["step_seconds_lower_bound"] == by_figures["step_seconds_lower_bound"]
    bound = by_card["step_seconds_lower_bound"]
    assert bound >= (by_card["flops_forward"] + by_card["flops_backward"]) / card.fp32
    assert bound >= (28 * by_card["trainable_params"] + 2 * by_card["activations"]) / card.bandwidth
    faster = rows(capsys, *tiny, "--peak-flops", "1e30", "--bandwidth", "1e30")["fft"]
    assert 0 < faster["step_seconds_lower_bound"] < bound


@pytest.mark.slow
def test_fit(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ("--config", recipe, "--methods", "fft,iisan-cached", "--modality", "text")
    limit = rows(capsys, *tiny)["fft"]["peak_memory_bytes"]
    found = rows(capsys, *tiny, "--fit", str(limit))
    assert found["fft"]["fit_bytes"] == limit
    largest = found["fft"]["largest_batch_size"]
    assert 16 <= largest < 40
    assert rows(capsys, *tiny, "--batch-size", str(largest))["fft"]["peak_memory_bytes"] <= limit
    assert rows(capsys, *tiny, "--batch-size", str(largest + 1))["fft"]["peak_memory_bytes"] > limit
    assert found["fft"]["fit_note"] == ""
    assert (found["iisan-cached"]["largest_batch_size"], found["iisan-cached"]["fit_note"]) == (40, "all users fit")
    none = rows(capsys, *tiny, "--fit", "1kB")["fft"]
    assert none["largest_batch_size"] is None
    assert none["fit_note"].startswith("not even 2 users fit: they take ")


def test_the_table(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        call("--config", recipe, "--methods", "lora,iisan-cached", "--modality", "text", "--card", "t4", "--fit", "1kB")
        == 0
    )
    out = capsys.readouterr().out
    heading, _, columns, lora, cached, *notes = out.splitlines()
    assert "fp32, 16 users per step" in heading
    assert columns.split()[:4] == ["method", "trained", "parameters", "peak"]
    assert columns.endswith("largest batch")
    assert len(columns) == len(lora) == len(cached)
    assert lora.split()[0] == "lora"
    assert lora.endswith("none")
    assert " - " in lora, "no cache: unknown is not 0"
    assert "on disk: hidden states of 60 items." in notes
    assert any(note.startswith("lora: not even 2 users fit") for note in notes)


def test_of_a_compiled_step_it_says_that_the_eager_one_is_planned(
    model_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for on in (False, True):
        recipe = matrix(model_folders)
        path = tmp_path / f"{on}.toml"
        path.write_text(tomli_w.dumps({**recipe, "training": {**recipe["training"], "compile": on}}), encoding="utf-8")
        tiny = ("--config", str(path), "--methods", "frozen", "--modality", "text")
        found.append(rows(capsys, *tiny)["frozen"])
        assert call(*tiny) == 0
        assert ("of the eager step, not of a compiled one" in capsys.readouterr().out) is on
    assert found[1] == found[0] | {"step": "eager"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--card", "a10g"), "--card a10g: unknown card; did you mean 'a10'?"),
        (("--card", "l4", "--peak-flops", "1e12"), "--peak-flops: not allowed with --card"),
        (("--card", "l4", "--bandwidth", "1e12"), "--bandwidth: not allowed with --card"),
        (("--card", "v100", "--precision", "bf16"), "--card v100: has no units for bf16"),
        (("--peak-flops", "1e12"), "--peak-flops: needs --bandwidth"),
        (("--bandwidth", "1e12"), "--bandwidth: needs --peak-flops"),
        (("--peak-flops", "-1", "--bandwidth", "1"), "--peak-flops -1: must be above zero"),
        (("--peak-flops", "1", "--bandwidth", "nan"), "--bandwidth nan: must be above zero"),
        (("--fit", "0"), "--fit 0: expected a size above zero"),
        (("--fit", "0.2"), "--fit 0.2: expected a size above zero"),
        (("--fit", "lots"), "--fit lots: expected a size"),
        (("--fit", "24 GiBs"), "--fit 24 GiBs: expected a size"),
        (("--fit=-4GiB",), "--fit -4GiB: expected a size"),
        (("--preset", "papier"), "--preset papier: unknown preset; did you mean 'paper'?"),
        (("--methods", "lorra"), "--methods: unknown method 'lorra'; did you mean 'lora'?"),
        (("--text-model", "no/such"), "--text-model no/such"),
        (("--text-model", "vit-base"), "--text-model vit-base: "),
        (("--modality", "audio"), "--modality: "),
        (("--batch-size", "0"), "--batch-size: "),
        (("--batch-size", "-3"), "--batch-size: "),
        (("--precision", "fp8"), "--precision: "),
        (("--items", "10"), "--items: needs --shapes full"),
        (("--items", "-1", "--shapes", "full"), "--items -1: must be above zero"),
        (("--preset", "amazon"), "needs --data-dir"),
    ],
)
def test_bad_usage_is_one_clear_line(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_options_that_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        call("--preset", "paper", "--config", "x.toml")
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_step_that_cannot_be_planned_names_the_method(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no fake operator\nfor this")

    monkeypatch.setattr("bench.cell.planner.Planner.__init__", fail)
    with pytest.raises(UserError, match=r"method fft: cannot be planned: no fake operator$"):
        call("--config", recipe, "--shapes", "full")


def test_an_encoder_that_wants_another_shape_is_refused(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Pictures come as squares."""
    oblong = json.loads((model_folders["vit"] / "config.json").read_text()) | {"image_size": [32, 48]}
    (tmp_path / "config.json").write_text(json.dumps(oblong))
    broken = tmp_path / "broken.toml"
    pair = [{"text": str(model_folders["bert"]), "image": str(tmp_path)}]
    broken.write_text(tomli_w.dumps(matrix(model_folders, backbones=pair)), encoding="utf-8")
    with pytest.raises(UserError, match=r"--image-model .*: it takes pictures of 32 × 48 pixels; only squares"):
        call("--config", str(broken), "--shapes", "full")
