"""The study of the attributes that item vectors hold: differences to frozen, their intervals and the sentences."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import NormalDist

import pytest

from reports.analysis.comparison import Comparison
from reports.figures.style import styles_of
from reports.studies.all_studies import studies
from reports.studies.attributes import differences, study
from reports.studies.study import Study
from tests.reports.factory import make_run, write_json
from tests.reports.reading import read_comparison, tables

Accuracies = Mapping[str, Mapping[str, float]]
CHANCE = {"category": 0.08, "purpose": 0.125, "pattern": 0.17}
FROZEN = {"category": 0.95, "purpose": 0.15, "pattern": 0.18}


def probed(path: Path, accuracies: Accuracies, seeds: tuple[int, ...] = (0,), n: int = 900) -> Comparison:
    """A run whose methods have these accuracies; each seed after the first has 0.02 more."""
    make_run(path, list(accuracies), seeds)
    for file in sorted(path.glob("cells/*/record.json")):
        record = json.loads(file.read_text())
        own, more = accuracies[record["row"]["method"]], 0.02 * record["row"]["seed"]
        record["attributes"] = {k: {"accuracy": v + more, "chance": CHANCE[k], "n": n} for k, v in own.items()}
        write_json(file, record)
    return read_comparison(path)


def made(comparison: Comparison) -> Study:
    found = study(comparison, "Where the accuracy comes from", "attributes")
    assert found is not None
    return found


def text_of(found: Study) -> str:
    return "\n\n".join(found.markdown)


def test_differences_to_frozen(tmp_path: Path) -> None:
    accuracies = {"fft": {**FROZEN, "purpose": 0.45}, "frozen": FROZEN, "lora": {**FROZEN, "category": 0.85}}
    found = made(probed(tmp_path / "run", accuracies))
    header, *rows = tables(text_of(found))[0]
    assert header == ["Method", "category", "purpose", "pattern"]
    assert rows == [
        ["chance", "0.08", "0.12", "0.17"],
        ["frozen", "0.95", "0.15", "0.18"],
        ["fft", "0.95 (0.00)", "**0.45 (+0.30)**", "0.18 (0.00)"],
        ["lora", "**0.85 (−0.10)**", "0.15 (0.00)", "0.18 (0.00)"],
    ]
    shares = [(p * 900 + 1) / 902 for p in (0.45, 0.15)]
    # Two methods and three attributes: six intervals hold at once.
    half = NormalDist().inv_cdf(1 - 0.05 / 12) * math.sqrt(sum(p * (1 - p) / 902 for p in shares))
    interval = f"+0.300, +{0.3 - half:.3f} to +{0.3 + half:.3f}"
    assert f"- **purpose**: more than in frozen (0.15) in fft (0.45: {interval})." in text_of(found)
    assert "- **category**: less than in frozen (0.95) in lora (0.85: −0.100," in text_of(found)
    assert "- **pattern**: in no method's vectors; no accuracy is above 1.5 times chance (0.17)." in text_of(found)
    assert "900 new items" in text_of(found)


def test_a_method_that_is_frozen_in_all_but_name(tmp_path: Path) -> None:
    present = {"category": 0.95, "purpose": 0.6}
    text = text_of(made(probed(tmp_path / "run", {"frozen": present, "iisan": present})))
    assert "**0" not in text
    assert "- No method is shown to differ from frozen in category and purpose." in text


def test_sampling_error_depends_on_the_number_of_items(tmp_path: Path) -> None:
    accuracies = {"frozen": {"purpose": 0.5}, "fft": {"purpose": 0.58}}
    assert "**0.58 (+0.08)**" in text_of(made(probed(tmp_path / "many", accuracies, n=900)))
    assert "**" not in text_of(made(probed(tmp_path / "few", accuracies, n=90)))


def test_means_over_seeds(tmp_path: Path) -> None:
    comparison = probed(tmp_path / "run", {"frozen": {"purpose": 0.5}, "fft": {"purpose": 0.7}}, (0, 1))
    cells = dict(tables(text_of(made(comparison)))[0][1:])
    assert cells == {"chance": "0.12", "frozen": "0.51", "fft": "**0.71 (+0.20)**"}


def test_without_frozen_there_are_no_differences(tmp_path: Path) -> None:
    found = made(probed(tmp_path / "run", {"fft": {"purpose": 0.7, "pattern": 0.2}}))
    assert tables(text_of(found))[0][2] == ["fft", "0.70", "0.20"]
    assert "frozen" not in text_of(found)
    assert differences({}, None) == {}


def test_the_figure_shows_accuracies_and_differences(tmp_path: Path) -> None:
    comparison = probed(tmp_path / "run", {"frozen": FROZEN, "fft": {**FROZEN, "purpose": 0.45}})
    (drawing,) = made(comparison).drawings
    assert drawing.svg is not None
    svg = drawing.svg.decode()
    for text in ("chance", "frozen", "fft", "purpose", "0.45", "+0.30", "0.95"):
        assert f">{text}<" in svg


def test_runs_without_probes_have_no_such_study(tmp_path: Path) -> None:
    styles = styles_of(["fft", "frozen"])
    plain = read_comparison(make_run(tmp_path / "plain", ["fft", "frozen"], [0]))
    assert study(plain, "t", "attributes") is None
    titles = [found.title for found in studies([probed(tmp_path / "run", {"frozen": FROZEN})], styles)]
    assert titles == ["Where the accuracy comes from"]


@pytest.mark.parametrize("entry", [{}, {"accuracy": None, "chance": 0.1, "n": 9}, 3, {"accuracy": "much"}])
def test_entries_that_are_no_probes_are_left_out(tmp_path: Path, entry: object) -> None:
    run = make_run(tmp_path / "run", ["frozen"], [0])
    (file,) = run.glob("cells/*/record.json")
    write_json(file, {**json.loads(file.read_text()), "attributes": {"purpose": entry}})
    assert study(read_comparison(run), "t", "attributes") is None
