"""The paper's tables: cells of each preset on tiny encoders for a few steps, up to the part of the report for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import parse, read_preset, to_toml
from bench.config.recipes import expand_datasets
from bench.records.record import cell_folder
from reports.build import build
from tests.reports.reading import images, tables

pytestmark = pytest.mark.slow


@pytest.fixture
def report_of(model_folders: dict[str, Path], tmp_path: Path, no_plan: None, no_figures: None) -> Callable[..., str]:
    """Preset, methods to keep (all without any), datasets to keep -> its report."""

    def shrunk(recipe: dict[str, Any], keep: tuple[str, ...]) -> dict[str, Any]:
        folders = {"text": str(model_folders["bert"]), "image": str(model_folders["vit"])}
        others = {"text": str(model_folders["distilbert"]), "image": str(model_folders["vit"])}
        for pair in recipe["backbones"]:
            pair |= others if pair["text"] == "shop-full" else folders
        recipe |= {"budget": {"steps": 2, "batch_size": 16}, "device": "cpu", "seeds": recipe.get("seeds", [0])[:1]}
        recipe["dataset"] = {**recipe.get("dataset", {}), "items": 60, "users": 40}
        recipe["training"] = {"width": 16, "logit_scale": 0.25, "lr_warmup_steps": 1, "timing_warmup_steps": 1}
        recipe["methods"] = [method for method in recipe["methods"] if not keep or method["name"] in keep]
        return recipe

    def run(cell: Cell, folder: Path) -> None:
        cell_folder(folder, cell.cell_id).mkdir(parents=True, exist_ok=True)
        assert run_cell(cell, cell_folder(folder, cell.cell_id), lambda _: None)["row"]["status"] == "ok"

    def make(name: str, keep: tuple[str, ...] = (), datasets: int = 1) -> str:
        folders = []
        for recipe in expand_datasets(read_preset(name), name)[:datasets]:
            matrix = parse(shrunk(recipe, keep), name)
            folder = tmp_path / matrix.name
            folder.mkdir()
            (folder / "matrix.toml").write_text(to_toml(matrix))
            (folder / "dataset.json").write_text(json.dumps({"users": 40, "digest": matrix.name}))
            (folder / "environment.json").write_text("{}")
            for cell in cells(matrix, "cpu"):
                run(cell, folder)
            folders.append(folder)
        out = tmp_path / "report"
        build(folders, out)
        assert all((out / image).is_file() for image in images((out / "report.md").read_text()))
        return (out / "report.md").read_text()

    return make


def part(text: str, title: str) -> str:
    """What stands under a heading."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_layerdrop(report_of: Callable[..., str]) -> None:
    names = [method["name"] for method in read_preset("layerdrop")["methods"]]
    assert [name for name in names if "cached" not in name] == [
        name.replace("-cached", "") for name in names if "cached" in name
    ]
    cached = tuple(name for name in names if "cached" in name)
    found = part(report_of("layerdrop", cached), "Which layers are kept")
    rows = tables(found)[0][1:]
    # The tiny encoders have four layers: all five states, every second, every third, first-middle-last, last.
    assert [(row[0], row[2]) for row in rows] == [
        (f"iisan-cached-{name}", kept)
        for name, kept in (("all", "5"), ("second", "3"), ("three", "3"), ("third", "2"), ("last", "1"))
    ]
    assert images(found) == ["figures/layers.png"]


def test_ablation(report_of: Callable[..., str]) -> None:
    found = part(report_of("ablation"), "Ablation")
    changes = {row[0]: row[1] for row in tables(found)[0][1:]}
    assert changes == {
        "iisan-cached": "",
        "iisan": "not cached",
        "no-intra": "intra no",
        "no-inter": "inter no",
        "no-gates": "gated no",
        "text-only-inter": "inter reads text",
        "bottleneck-4": "bottleneck 4",
        "bottleneck-64": "bottleneck 64",
        "width-16": "width 16",
        "width-128": "width 128",
        "frozen": "another method",
    }
    (line,) = [line for line in found.splitlines() if line.startswith("- ")]
    assert line.startswith("- iisan and iisan-cached: the training loss agrees to")
    assert "(the cache holds float16)" in line


def test_modality(report_of: Callable[..., str]) -> None:
    found = part(report_of("modality", ("iisan-cached",)), "One modality and both")
    header, *rows = tables(found)[0]
    assert header[1:4] == ["HR@10, text", "HR@10, image", "HR@10, text+image"]
    assert [row[0] for row in rows] == ["iisan-cached"]
    assert all(rows[0])
    assert len(read_preset("modality")["methods"]) == 8
    assert images(found) == ["figures/modality.png"]


def test_gates(report_of: Callable[..., str]) -> None:
    found = part(report_of("gates"), "Gates")
    rows = tables(found)[0][1:]
    assert [(row[0], len(row[4].split())) for row in rows] == [("iisan-cached", 3)] * 3 + [("iisan-cached-all", 5)] * 3
    assert images(found) == ["figures/gates.png"]


def test_backbones(report_of: Callable[..., str]) -> None:
    found = part(report_of("backbones", ("frozen", "iisan-cached")), "Encoders")
    rows = tables(found)[0][1:]
    named = [(" + ".join(Path(name).name for name in row[0].replace("\\", "").split(" + ")), row[1]) for row in rows]
    assert named == [
        (pair, method)
        for pair in ("bert + vit", "distilbert + vit", "bert + vit (random)")
        for method in ("frozen", "iisan-cached")
    ]
    # One score over all six: somebody is the dearest in nothing less than everything that counts.
    scores = [float(row[-1]) for row in rows]
    assert 0 <= min(scores) < max(scores) <= 1
    assert images(found) == ["figures/backbones.png"]


def test_datasets(report_of: Callable[..., str]) -> None:
    found = part(report_of("paper-datasets", ("frozen", "iisan-cached"), datasets=2), "Over datasets")
    assert "2 datasets are too few" in found
    first, second = (float(row[1]) for row in tables(found)[0][1:])
    assert min(first, second) >= 1
    assert first + second == 3  # also where a dataset does not tell the two methods apart
    assert images(found) == []


def test_efficiency(report_of: Callable[..., str]) -> None:
    text = report_of("paper-efficiency", ("lora", "iisan-cached"))
    assert tables(text)[0][0] == [
        "Method",
        "HR@10",
        "NDCG@10",
        "s per epoch",
        "Trainable parameters",
        "Peak memory",
        "TPME",
    ]
    assert len(read_preset("paper-efficiency")["methods"]) == 8
