"""Encoders in a report: which pooling was taken, and why."""

from __future__ import annotations

import json
from pathlib import Path

from tests.reports.factory import make_run, write_json
from tests.reports.reading import tables, text_from


def test_the_pooling_of_every_encoder_is_told_with_its_reason(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    assert "Pooling" not in text_from(run)
    facts = json.loads((run / "dataset.json").read_text())
    told = {"modality": "text", "model": "m|ni", "pooling": "mean", "why": "1_Pooling/config.json", "items": "cased"}
    write_json(run / "dataset.json", {**facts, "encoders": [told]})
    text = text_from(run)
    (found,) = [each for each in tables(text) if each[0][:3] == ["Encoder", "Modality", "Pooling"]]
    assert found[1:] == [["m|ni", "text", "mean", "1\\_Pooling/config.json", "cased"]]
