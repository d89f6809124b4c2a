"""Tests of the warnings of a report."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.reports.factory import dataset, make_run, write_json
from tests.reports.reading import tables, text_from, text_of


def test_code_that_came_with_a_model_is_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=("fft", "lora"), seeds=(0,))
    assert "Python code" not in text_from(run)
    matrix = run / "matrix.toml"
    pair = '\n[[backbones]]\ntext = "own/[red]text"\nimage = "vit"\ntrust_remote_code = true\n'
    matrix.write_text(matrix.read_text(encoding="utf-8") + pair, encoding="utf-8")
    assert "Python code that comes with own/\\[red\\]text and vit was allowed to run" in text_from(run)


def test_a_method_with_a_warning_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0, 1])
    assert "†" not in text_from(run)
    path = next((run / "cells").glob("lora--*--s1--*/record.json"))
    write_json(path, {**json.loads(path.read_text()), "warnings": ["the processor was busy"]})
    text = text_from(run)
    assert [row[0] for row in tables(text)[0][1:] if "†" in row[0]] == ["lora †"]
    assert "† A cell of this method has a warning, see [Warnings](#warnings)." in text


@pytest.mark.parametrize(
    ("everywhere", "words"),
    [
        ({"weights": "random"}, "initialised at random: the costs are valid, but accuracy has no meaning"),
        ({"hr@10": 0.05}, "HR@10 is not above ranking by popularity (0.094) for fft (0.050) and lora (0.050)."),
        ({"hr@10": 0.9}, "The HR@10 of fft is above the Bayes ceiling by more than its interval"),
    ],
)
def test_warnings_from_the_numbers(tmp_path: Path, everywhere: dict[str, Any], words: str) -> None:
    text = text_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0], **everywhere)
    assert words in text.split("## Warnings")[1]


def test_ranks_that_contradict_the_record_are_warned_of(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0], ranks=True)
    assert "The ranks of" not in text_from(run)
    path = next((run / "cells").glob("lora--*/record.json"))
    record = json.loads(path.read_text())
    record["row"]["hr@10"] = 0.5
    write_json(path, record)
    assert re.search(r"The ranks of lora--.* give an HR@10 of 0\.\d{4}, but its record says 0\.5000", text_from(run))


def test_gpu_runs_and_pretrained_backbones_are_not_warned_of(tmp_path: Path) -> None:
    text = text_of(tmp_path / "run", device="cuda:0")
    assert text.split("## Warnings")[1].startswith("\n\nNone.")


def test_a_fallback_from_nvml_is_a_warning(tmp_path: Path) -> None:
    known = {"nvml_process_bytes": 900, "peak_reserved_bytes": 700, "memory_source": "nvml_process_bytes"}
    changes = {"fft": known, "lora": {"peak_reserved_bytes": 600, "memory_source": "peak_reserved_bytes"}}
    for name, methods in (("mixed", ["fft", "lora"]), ("known", ["fft", "iisan"])):
        given = changes | {"iisan": known}
        text = text_of(tmp_path / name, methods=methods, seeds=[0], changes=given, device="cuda:0")
        assert ("NVML did not report the memory" in text) == (name == "mixed")
        assert "more than one source" not in text


def test_warnings_from_the_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora", "iisan"], seeds=[0])
    write_json(run / "dataset.json", {**dataset(), "unknown_token_share": 0.31})
    for place, path in enumerate(sorted((run / "cells").glob("*/record.json"))):
        record = json.loads(path.read_text())
        record["warnings"] = [f"step times drift by {7 + place} %"]
        record["batch_digest"] = f"digest {place // 2}"
        write_json(path, record)
    text = text_from(run).split("## Warnings")[1]
    assert "31% of the tokens of the titles are unknown" in text
    assert text.count("step times drift") == 1
    assert "step times drift by 9 %, at most (lora--" in text
    assert "and 2 more cells)" in text
    assert "did not see the same batches with seed 0" in text


def test_resumed_cells_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora", "iisan"], seeds=[0])
    said = [{"times": 1, "steps_lost": 7}, {"times": 2, "steps_lost": None}, None]
    for path, resumed in zip(sorted((run / "cells").glob("*/record.json")), said, strict=True):
        write_json(path, {**json.loads(path.read_text()), "resumed": resumed})
    warnings = text_from(run).split("## Warnings")[1].splitlines()
    (line,) = [line for line in warnings if "resumed from a checkpoint" in line]
    assert re.search(r"\(fft--\S+ 1 time, 7 steps lost; iisan--\S+ 2 times, steps lost unknown\)", line)
    assert "not counted" in line
    assert "lora" not in line
