"""Tests of the axis of accuracy: where it starts, what it shows, and where floors and ceilings are named."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes

from reports.analysis.comparison import Comparison
from reports.figures.accuracy_axis import accuracy_range, edge_label
from reports.figures.accuracy_tpme import accuracy_against_tpme
from reports.figures.curves import over_seconds
from reports.figures.style import RC, styles_of
from tests.reports.factory import dataset, make_run, write_json
from tests.reports.pages import page_from
from tests.reports.reading import read_comparison

NARROW = {"fft": 0.581, "frozen": 0.552, "iisan": 0.516}
WIDE = {"fft": 0.581, "frozen": 0.2, "iisan": 0.516}


def run_of(path: Path, values: Mapping[str, float], floor: float, ceiling: float) -> Path:
    run = make_run(path, list(values), [0], changes={name: {"hr@10": value} for name, value in values.items()})
    references = {"popularity": {"hr@10": floor}, "bayes": {"hr@10": ceiling}}
    write_json(run / "dataset.json", {**dataset(), "references": references})
    return run


def drawn(comparison: Comparison) -> tuple[Axes, list[str]]:
    with mpl.rc_context(RC):
        axes = accuracy_against_tpme(comparison, styles_of(comparison.methods)).axes[0]
    return axes, [text.get_text() for text in axes.texts]


def levels(axes: Axes) -> list[float]:
    """Heights of the lines through the whole figure."""
    across = [line.get_ydata() for line in axes.lines if list(np.asarray(line.get_xdata())) == [0, 1]]
    return [float(ys[0]) for ys in map(np.asarray, across) if ys[0] == ys[1]]


def test_all_values_lie_within_and_only_a_narrow_band_leaves_zero() -> None:
    for values in ([0.5, 0.6], [0.3, 0.6], [0.58, 0.58], [0.29, 0.6], [0.0, 0.0], [1.0]):
        low, high = accuracy_range(values)
        assert low <= min(values)
        assert max(values) < high
        assert (low > 0) == (min(values) >= 0.5 * max(values) > 0)
    low, high = accuracy_range([0.5, 0.6])
    assert 0.1 / (high - low) > 0.7  # the values fill the axis


def test_values_that_hardly_differ_do_not_look_far_apart() -> None:
    low, high = accuracy_range([0.5, 0.5001])
    assert high - low > 0.01


def test_near_references_extend_the_axis_and_far_ones_do_not() -> None:
    plain = accuracy_range([0.5, 0.6])
    assert accuracy_range([0.5, 0.6], [0.2, 0.9]) == plain
    low, high = accuracy_range([0.5, 0.6], [0.47, 0.63])
    assert low < 0.47 < plain[0]
    assert plain[1] < 0.63 < high
    assert accuracy_range([0.5, 0.6], [0.55]) == plain


def test_an_arrow_points_to_what_is_out_of_range() -> None:
    assert edge_label("popularity", 0.2, 0.4, 0.6) == "↓ popularity 0.200"
    assert edge_label("Bayes ceiling", 0.7, 0.4, 0.6) == "↑ Bayes ceiling 0.700"
    assert edge_label("popularity", 0.5, 0.4, 0.6) == "popularity 0.500"
    assert edge_label("popularity", 0.2, 0.4, 0.6, "←→") == "← popularity 0.200"


def test_the_scatter_names_far_references_at_its_edges(tmp_path: Path) -> None:
    axes, texts = drawn(read_comparison(run_of(tmp_path / "narrow", NARROW, 0.2, 0.729)))
    assert {"↓ popularity 0.200", "↑ Bayes ceiling 0.729"} <= set(texts)
    assert levels(axes) == []
    assert axes.get_ylim()[0] > 0.4
    assert axes.get_ylabel() == "test HR@10 (axis not from 0)"
    assert all(len(tick.get_text()) <= len("0.000") for tick in axes.get_yticklabels())
    frame = axes.get_window_extent()
    for text in axes.texts:
        if "0." in text.get_text():
            box = text.get_window_extent()
            assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    axes, texts = drawn(read_comparison(run_of(tmp_path / "wide", WIDE, 0.1, 0.63)))
    assert {"popularity 0.100", "Bayes ceiling 0.630"} <= set(texts)
    assert sorted(levels(axes)) == pytest.approx([0.1, 0.63])
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylabel() == "test HR@10"


def test_curves_follow_the_same_rule(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], [0])
    for wide in (True, False):
        for path in run.glob("cells/*/record.json"):
            record = json.loads(path.read_text())
            for point in record["curve"]:
                point["valid_hr@10"] = 0.1 * point["epoch"] if wide else 0.5 + 0.01 * point["epoch"]
            write_json(path, record)
        with mpl.rc_context(RC):
            axes = over_seconds(read_comparison(run), styles_of(["fft", "lora"])).axes[0]
        assert (axes.get_ylim()[0] == 0) == wide
        assert ("axis not from 0" in axes.get_ylabel()) != wide


def test_the_page_has_the_range_and_the_labels_of_the_figure(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", NARROW, 0.2, 0.729)
    found = re.search(r'id="report-data">(.*?)</script>', page_from([run]), flags=re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])["comparisons"][0]
    axes, texts = drawn(read_comparison(run))
    assert data["range"] == pytest.approx(axes.get_ylim())
    assert {line["label"] for line in data["lines"]} <= set(texts)
