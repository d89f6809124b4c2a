"""Figures: sizes, fixed styles, labels that keep clear of each other, and reasons where there is nothing to draw."""

from __future__ import annotations

import io
import itertools
import random
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from bench.errors import UserError
from reports import figures, style, ternary
from reports.blocks import Block
from reports.figures import FIGURES, accuracy_against_tpme, draw
from reports.style import RC, spread_out, styles
from reports.tradeoff import first_shares
from tests.reports.factory import METHODS
from tests.reports.test_verdict import block_of


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> Block:
    return block_of(tmp_path_factory.mktemp("figures") / "run")


def test_all_figures_are_pictures_of_the_right_width(block: Block) -> None:
    drawings = draw(block, styles(block.methods))
    assert [drawing.stem for drawing in drawings] == [stem for stem, *_ in FIGURES]
    for drawing in drawings:
        assert drawing.png is not None, drawing.reason
        with Image.open(io.BytesIO(drawing.png)) as image:
            assert image.format == "PNG"
            assert 1200 <= image.width <= 1600
            assert len(set(image.convert("L").resize((160, 100)).tobytes())) > 20


def test_the_same_records_give_the_same_bytes(block: Block) -> None:
    looks = styles(block.methods)
    assert [drawing.png for drawing in draw(block, looks)] == [drawing.png for drawing in draw(block, looks)]


def test_labels_cover_neither_each_other_nor_the_edge(block: Block) -> None:
    with mpl.rc_context(RC):
        figure = accuracy_against_tpme(block, styles(block.methods))
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
    looks = styles(METHODS)
    assert len({look.color for look in looks.values()}) == len({look.marker for look in looks.values()}) == 8
    alone = styles(["lora"])
    assert alone["lora"] == looks["lora"]
    strangers = [f"stranger{place}" for place in range(12)]
    with_strangers = styles([*METHODS, *strangers])
    assert {name: with_strangers[name] for name in METHODS} == looks
    assert len(set(with_strangers.values())) == 20
    assert styles(reversed(strangers)) == {name: with_strangers[name] for name in strangers}


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


def reasons(block: Block) -> dict[str, str]:
    return {drawing.stem: drawing.reason for drawing in draw(block, styles(block.methods)) if drawing.png is None}


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    alone = reasons(block_of(tmp_path / "alone", methods=["lora"], seeds=[0]))
    assert list(alone) == ["accuracy-tpme", "weights"]
    assert "alone" in alone["accuracy-tpme"]
    failed = reasons(block_of(tmp_path / "failed", status="oom"))
    assert list(failed) == [stem for stem, *_ in FIGURES]
    assert all(failed.values())


def test_missing_and_partial_measurements_are_drawn_without(tmp_path: Path) -> None:
    bare: dict[str, Any] = {"lora": {"epoch_seconds": None, "hr@10": None}, "iisan": {"peak_memory_bytes": None}}
    block = block_of(tmp_path / "run", methods=["fft", "lora", "iisan", "frozen"], seeds=[0], changes=bare)
    for record in block.records:
        record.steps_path.unlink()
    assert list(reasons(block)) == ["step-times"]


def test_malformed_steps_are_named(tmp_path: Path) -> None:
    block = block_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0])
    block.records[0].steps_path.write_text("epoch,step\n1,2\n")
    with pytest.raises(UserError, match=r"steps\.csv: malformed"):
        draw(block, styles(block.methods))
    block.records[0].steps_path.write_text("epoch,step,seconds\n1,2,fast\n")
    with pytest.raises(UserError, match=r"steps\.csv: malformed"):
        draw(block, styles(block.methods))


def test_names_that_look_like_formulas_are_drawn(tmp_path: Path) -> None:
    names = ["$a_b$", "$", "方法", "x" * 60]
    why = "TPME cannot be computed: params is 50000 for every method: a zero range cannot be normalised"
    assert reasons(block_of(tmp_path / "run", methods=names, seeds=[0])) == {"accuracy-tpme": why, "weights": why}
    assert style.short("x" * 60) == "x" * 23 + "…"


def test_curves_of_different_length_meet_where_all_are_known() -> None:
    long = np.array([[1.0, 0.1], [2.0, 0.2], [3.0, 0.3]])
    short = np.array([[3.0, 0.3], [4.0, 0.4]])
    assert figures._mean_curve([long, short]).tolist() == pytest.approx(np.array([[2.0, 0.2], [3.0, 0.3]]))


def many_parts(path: Path) -> Block:
    """Ten methods that share the triangle of weights in large and small parts, two of them equal."""
    costs = {
        "a-method-with-quite-a-long-name": (1.0, 9, 9.0), "bitfit": (9.0, 1, 9.0), "lora": (9.0, 9, 1.0),
        "adapter": (4.0, 4, 3.0), "prefix": (3.9, 5, 3.1), "frozen": (2.5, 6, 7.0), "iisan": (6.0, 2, 6.0),
        "twin": (2.0, 7, 2.0), "fft": (2.0, 7, 2.0), "iisan-cached": (7.0, 3, 2.6),
    }  # fmt: skip
    columns = ("epoch_seconds", "trainable_params", "peak_memory_bytes")
    changes = {name: dict(zip(columns, (t, p, int(m * 2**20)), strict=True)) for name, (t, p, m) in costs.items()}
    return block_of(path, methods=list(costs), seeds=[0], changes=changes)


def test_labels_of_the_weights_are_clear_of_each_other(tmp_path: Path, block: Block) -> None:
    for drawn in (block, many_parts(tmp_path / "run")):
        with mpl.rc_context(RC):
            figure = ternary.weights(drawn, styles(drawn.methods))
            figure.canvas.draw()
        texts = [text for text in figure.axes[0].texts if text.get_text()]
        extents = [text.get_window_extent() for text in texts]
        for one, other in itertools.combinations(extents, 2):
            assert not one.overlaps(other)
        width, height = figure.get_size_inches() * figure.dpi
        assert all(e.x0 >= 0 and e.x1 <= width and e.y0 >= 0 and e.y1 <= height for e in extents)


def test_every_part_of_the_weights_is_labelled(tmp_path: Path) -> None:
    block = many_parts(tmp_path / "run")
    with mpl.rc_context(RC):
        figure = ternary.weights(block, styles(block.methods))
    words = "\n".join(text.get_text() for text in figure.axes[0].texts)
    for method, share in first_shares(block).items():
        assert method[:13] in words
        if method not in ("twin", "fft") and share >= 0.0005:
            assert f"{share:.1%}" in words
    assert "twin\nfft" in words
    assert "the paper's weights:\n0.45 time\n0.1 parameters\n0.45 memory" in words
