"""Tests of the figures: sizes, fixed styles, labels without overlap, and reasons for figures that are not drawn."""

from __future__ import annotations

import io
import itertools
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from bench.utils.errors import UserError
from reports.analysis.comparison import MOST_DRAWN, Comparison
from reports.analysis.tradeoff import first_shares, pareto_front
from reports.figures import all_figures, curves, stacked_bars, svg, weight_triangle
from reports.figures.accuracy_tpme import accuracy_against_tpme
from reports.figures.all_figures import FIGURES, draw
from reports.figures.labels import spread_out
from reports.figures.style import DPI, RC, Styles, short, styles_of
from tests.reports.factory import EPOCHS, METHODS, make_run, write_json
from tests.reports.reading import comparison_of, read_comparison


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return comparison_of(tmp_path_factory.mktemp("figures") / "run", energy_joules=5000.0)


def test_all_figures_are_pictures_of_the_right_width(comparison: Comparison) -> None:
    drawings = draw(comparison, styles_of(comparison.methods))
    assert [drawing.stem for drawing in drawings] == [stem for stem, *_ in FIGURES]
    for drawing in drawings:
        assert drawing.png is not None, drawing.reason
        with Image.open(io.BytesIO(drawing.png)) as image:
            assert image.format == "PNG"
            assert 1200 <= image.width <= 1600
            assert len(set(image.convert("L").resize((160, 100)).tobytes())) > 20


def test_the_same_records_give_the_same_bytes(comparison: Comparison) -> None:
    first, second = (draw(comparison, styles_of(comparison.methods)) for _ in range(2))
    assert [drawing.png for drawing in first] == [drawing.png for drawing in second]


def test_labels_cover_neither_each_other_nor_the_edge(comparison: Comparison) -> None:
    with mpl.rc_context(RC):
        figure = accuracy_against_tpme(comparison, styles_of(comparison.methods))
    axes = figure.axes[0]
    labels = [
        text.get_window_extent() for text in axes.texts if isinstance(text, Annotation) and text.get_text() in METHODS
    ]
    assert len(labels) == len(METHODS)
    frame = axes.get_window_extent()
    for one, other in itertools.combinations(labels, 2):
        assert not one.overlaps(other)
    for label in labels:
        assert frame.x0 <= label.x0
        assert label.x1 <= frame.x1
        assert frame.y0 <= label.y0


def test_styles_are_fixed_and_different() -> None:
    styles = styles_of(METHODS)
    assert len({style.color for style in styles.values()}) == len({style.marker for style in styles.values()}) == 8
    alone = styles_of(["lora"])
    assert alone["lora"] == styles["lora"]
    strangers = [f"stranger{place}" for place in range(12)]
    with_strangers = styles_of([*METHODS, *strangers])
    assert {name: with_strangers[name] for name in METHODS} == styles
    assert len(set(with_strangers.values())) == 20
    assert styles_of(reversed(strangers)) == {name: with_strangers[name] for name in strangers}


@pytest.mark.parametrize("seed", range(5))
def test_spread_out_keeps_the_gap_the_order_and_the_mean(seed: int) -> None:
    draw_from = random.Random(seed)
    heights = [draw_from.uniform(0, 10) for _ in range(12)]
    moved = spread_out(heights, 0.7)
    ranked = sorted(range(12), key=lambda place: heights[place])
    for below, above in itertools.pairwise(ranked):
        assert moved[above] - moved[below] >= 0.7 - 1e-9
    assert sum(moved) == pytest.approx(sum(heights))
    assert spread_out([1.0, 5.0, 3.0], 0.7) == [1.0, 5.0, 3.0]


def reasons(comparison: Comparison) -> dict[str, str]:
    drawings = draw(comparison, styles_of(comparison.methods))
    return {drawing.stem: drawing.reason for drawing in drawings if drawing.png is None}


def test_figures_that_cannot_be_drawn_have_a_reason(tmp_path: Path) -> None:
    alone = reasons(comparison_of(tmp_path / "alone", methods=["lora"], seeds=[0], energy_joules=1.0))
    assert list(alone) == ["accuracy-tpme", "weights"]
    assert "alone" in alone["accuracy-tpme"]
    failed = reasons(comparison_of(tmp_path / "failed", status="oom"))
    assert list(failed) == [stem for stem, *_ in FIGURES]
    assert all(failed.values())


def test_missing_and_partial_measurements_are_drawn_without(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"lora": {"epoch_seconds": None, "hr@10": None}, "iisan": {"peak_memory_bytes": None}}
    comparison = comparison_of(
        tmp_path / "run", methods=["fft", "lora", "iisan", "frozen"], seeds=[0], changes=bare, energy_joules=1.0
    )
    for record in comparison.records:
        record.steps_path.unlink()
    assert list(reasons(comparison)) == ["step-times"]


def test_malformed_steps_are_named(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    comparison.records[0].steps_path.write_text("epoch,step\n1,2\n")
    with pytest.raises(UserError, match=r"steps\.csv: malformed"):
        draw(comparison, styles_of(comparison.methods))
    comparison.records[0].steps_path.write_text("epoch,step,seconds\n1,2,fast\n")
    with pytest.raises(UserError, match=r"steps\.csv: malformed"):
        draw(comparison, styles_of(comparison.methods))


def test_names_that_look_like_formulas_are_drawn(tmp_path: Path) -> None:
    names = ["$a_b$", "$", "方法", "x" * 60]
    why = "TPME cannot be computed: params is 50000 for every method: a zero range cannot be normalised"
    comparison = comparison_of(tmp_path / "run", methods=names, seeds=[0], energy_joules=1.0)
    assert reasons(comparison) == {"accuracy-tpme": why, "weights": why}
    assert short("x" * 60) == "x" * 23 + "…"


def test_curves_of_different_length_meet_where_all_are_known() -> None:
    long = np.array([[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]])
    short = np.array([[3.0, 0.3], [4.0, 0.4]])
    assert curves.mean_curve([long, short]).tolist() == pytest.approx(np.array([[2.0, 0.2], [3.0, 0.3]]))


def many_parts(path: Path) -> Comparison:
    """Ten methods with large and small regions in the triangle of weights; two of them have equal costs."""
    costs = {
        "a-method-with-quite-a-long-name": (1.0, 9, 9.0), "bitfit": (9.0, 1, 9.0), "lora": (9.0, 9, 1.0),
        "adapter": (4.0, 4, 3.0), "prefix": (3.9, 5, 3.1), "frozen": (2.5, 6, 7.0), "iisan": (6.0, 2, 6.0),
        "twin": (2.0, 7, 2.0), "fft": (2.0, 7, 2.0), "iisan-cached": (7.0, 3, 2.6),
    }  # fmt: skip
    columns = ("epoch_seconds", "trainable_params", "peak_memory_bytes")
    changes = {name: dict(zip(columns, (t, p, int(m * 2**20)), strict=True)) for name, (t, p, m) in costs.items()}
    return comparison_of(path, methods=list(costs), seeds=[0], changes=changes)


def test_labels_of_the_weights_are_clear_of_each_other(tmp_path: Path, comparison: Comparison) -> None:
    for drawn in (comparison, many_parts(tmp_path / "run")):
        with mpl.rc_context(RC):
            figure = weight_triangle.weights(drawn, styles_of(drawn.methods))
            figure.canvas.draw()
        texts = [text for text in figure.axes[0].texts if text.get_text()]
        extents = [text.get_window_extent() for text in texts]
        for one, other in itertools.combinations(extents, 2):
            assert not one.overlaps(other)
        width, height = figure.get_size_inches() * figure.dpi
        assert all(e.x0 >= 0 and e.x1 <= width and e.y0 >= 0 and e.y1 <= height for e in extents)


def test_every_part_of_the_weights_is_labelled(tmp_path: Path) -> None:
    comparison = many_parts(tmp_path / "run")
    with mpl.rc_context(RC):
        figure = weight_triangle.weights(comparison, styles_of(comparison.methods))
    words = "\n".join(text.get_text() for text in figure.axes[0].texts)
    for method, share in first_shares(comparison).items():
        assert method[:13] in words
        if method not in ("twin", "fft") and share >= 0.0005:
            assert f"{share:.1%}" in words
    assert "twin\nfft" in words
    assert "the paper's weights:\n0.45 time\n0.1 parameters\n0.45 memory" in words


def drawn_by(make: Callable[[Comparison, Styles], Figure], comparison: Comparison) -> Figure:
    with mpl.rc_context(RC):
        return make(comparison, styles_of(comparison.methods))


def test_flops_and_energy_are_those_of_the_records(tmp_path: Path) -> None:
    comparison = comparison_of(tmp_path / "run", methods=["fft"], seeds=[0], energy_joules=3000.0)
    (record,) = comparison.records
    steps = [point["step"] for point in record.curve]
    flops = record.compute["flops_forward"] + record.compute["flops_backward"]
    (line,) = (
        line for line in drawn_by(curves.over_flops, comparison).axes[0].lines if len(line.get_xdata()) == EPOCHS
    )
    assert list(line.get_xdata()) == pytest.approx([step * flops / 1e12 for step in steps])
    (line,) = (
        line for line in drawn_by(curves.over_energy, comparison).axes[0].lines if len(line.get_xdata()) == EPOCHS
    )
    assert list(line.get_xdata()) == pytest.approx([1.0, 2.0, 3.0])


def test_the_marker_of_the_highest_point_is_not_cut(comparison: Comparison) -> None:
    axes = drawn_by(curves.over_seconds, comparison).axes[0]
    highest = max(y for line in axes.lines if line.get_marker() != "None" for y in line.get_ydata())
    pixels = axes.transData.transform((0, highest))[1]
    assert axes.get_window_extent().y1 - pixels > 9 * DPI / 72  # the largest marker is 9 points high


def widths(figure: Figure) -> dict[tuple[float, bool], float]:
    """Lengths of the stacked bars in the first axes of a figure, by the middle of their row and by hatching."""
    found: dict[tuple[float, bool], float] = {}
    for bar in figure.axes[0].patches:
        key = round(bar.get_y() + bar.get_height() / 2, 2), bool(bar.get_hatch())
        found[key] = found.get(key, 0.0) + bar.get_width()
    return found


def test_memory_and_plan_have_a_bar_each(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=[0])
    for path in run.glob("cells/*/record.json"):
        record = json.loads(path.read_text())
        plan = {name: 0.9 * value for name, value in record["plan"].items() if value is not None}
        write_json(path, {**record, "plan": plan})
    bars = list(widths(drawn_by(stacked_bars.memory, read_comparison(run))).items())
    for row, (_, _, _, mebibytes, _) in enumerate(METHODS.values()):
        measured = [width for (y, hatched), width in bars if round(y) == row and not hatched]
        planned = [width for (y, hatched), width in bars if round(y) == row and hatched]
        assert measured == pytest.approx([mebibytes], rel=1e-4)
        assert planned == pytest.approx([0.9 * mebibytes], rel=1e-4)


def test_memory_without_a_plan_has_one_bar(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    for path in run.glob("cells/*/record.json"):
        write_json(path, {**json.loads(path.read_text()), "plan": None})
    assert set(widths(drawn_by(stacked_bars.memory, read_comparison(run)))) == {(0, False), (1, False)}


def test_phases_add_up_to_the_median_step(comparison: Comparison) -> None:
    found = widths(drawn_by(stacked_bars.phases, comparison))
    for row, method in enumerate(METHODS):
        assert found[row, False] == pytest.approx(
            1000 * (comparison.value(method, "step_seconds_median") or 0), rel=1e-6
        )


def test_the_front_holds_methods_that_none_dominates() -> None:
    draw_from = random.Random(3)
    for _ in range(50):
        points = {str(place): (draw_from.randrange(6), draw_from.randrange(6)) for place in range(9)}
        kept = {
            name
            for name, (cost, gain) in points.items()
            if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points.values())
        }
        front = pareto_front(points)
        assert set(front) == kept
        assert list(front.values()) == sorted(front.values())


def test_only_so_many_methods_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"method-{place:02d}" for place in range(MOST_DRAWN + 5)]
    columns = ("trainable_params", "peak_memory_bytes", "epoch_seconds")
    changes = {name: dict.fromkeys(columns, 1000 - place) for place, name in enumerate(names)}
    comparison = comparison_of(tmp_path / "run", methods=names, seeds=[0], changes=changes)
    assert comparison.drawn == names[5:]  # later methods are cheaper
    monkeypatch.setattr(all_figures, "FIGURES", [entry for entry in FIGURES if entry[0] == "costs"])
    (costs,) = draw(comparison, styles_of(names))
    assert "Only 24 of 29 methods are drawn" in costs.caption
    assert costs.svg is not None
    assert b"method-28" in costs.svg
    assert b"method-04" not in costs.svg


def test_a_picture_within_a_page_has_no_style_and_names_of_its_own(comparison: Comparison) -> None:
    for drawing in draw(comparison, styles_of(comparison.methods)):
        assert drawing.svg is not None
        markup = svg.inline(drawing.svg, drawing.stem, 'a "label" <b>')
        root = ElementTree.fromstring(markup)
        names = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
        assert len(names) == len(set(names))
        assert all(name.startswith(drawing.stem) for name in names)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', markup)) == set(names)
        assert not [element for element in root.iter() if element.tag.endswith("style") or "style" in element.attrib]
        assert root.attrib["aria-label"] == 'a "label" <b>'
        assert {"fft", "lora"} <= {text for element in root.iter() if (text := element.text)} or drawing.stem in {
            "accuracy-tpme",  # names with a halo are drawn as paths
            "weights",
        }


def test_names_that_are_no_xml_are_drawn(tmp_path: Path) -> None:
    names = ["fft", "a\x1b[31mb\x01", "<&>\"'"]
    comparison = comparison_of(tmp_path / "run", methods=names, seeds=[0])
    for drawing in draw(comparison, styles_of(names)):
        if drawing.svg is not None:
            ElementTree.fromstring(drawing.svg)
