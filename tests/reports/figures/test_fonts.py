"""Names in scripts that matplotlib's font lacks: a font of the system, or a note in the caption."""

from __future__ import annotations

import io
import shutil
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from reports.figures import fonts, style
from reports.figures.drawing import Drawing, rendered

NAME = "双塔モデル"
MATHS = "\U0001d49c"  # a script letter: DejaVu Sans lacks it, and STIX, which comes with matplotlib, has it


def titled(text: str) -> Figure:
    figure = style.new_figure(2)
    figure.text(0.5, 0.5, text)
    return figure


def drawing(text: str) -> Drawing:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return rendered("x", "X", "As measured.", lambda: titled(text))


def pixels(made: Drawing) -> np.ndarray:
    assert made.png is not None
    return np.asarray(Image.open(io.BytesIO(made.png)))


def test_without_a_font_the_caption_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_families", lambda: {"DejaVu Sans": font_manager.findfont("DejaVu Sans")})
    fonts._characters.cache_clear()
    made = drawing(f"bert on {NAME}")
    assert "No installed font has 5 of the characters (" in made.caption
    assert all(character in made.caption for character in NAME)
    assert made.svg is not None
    assert NAME in made.svg.decode()
    assert drawing("bert").caption == "As measured."


def test_a_font_of_the_system_draws_them() -> None:
    chosen = fonts.fallback(MATHS)
    assert len(chosen) == 1
    assert chosen[0].startswith(("STIX", "DejaVu Math"))
    made = drawing(f"bert {MATHS}")
    assert made.caption == "As measured."
    with mpl.rc_context(style.RC), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        boxes = titled(f"bert {MATHS}")
        plain = io.BytesIO()
        boxes.savefig(plain, format="png", dpi=style.DPI)
    assert not np.array_equal(pixels(made), np.asarray(Image.open(plain)))
    assert list(mpl.rcParams["font.family"]) == ["sans-serif"]


def test_boxes_are_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not [family for family in fonts._families() if family.startswith("Last")]


def test_other_warnings_are_passed_on() -> None:
    def draw() -> int:
        warnings.warn("something else", UserWarning, stacklevel=1)
        return 3

    with pytest.warns(UserWarning, match="something else"):
        assert fonts.with_fallback(draw) == (3, "")


def test_a_file_that_is_no_font_is_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    shutil.copy(font_manager.findfont("DejaVu Sans"), tmp_path / "good.ttf")
    there = {"Broken": str(tmp_path / "broken.ttf"), "Good": str(tmp_path / "good.ttf")}
    monkeypatch.setattr(fonts, "_families", lambda: there)
    fonts._characters.cache_clear()
    assert fonts.fallback("a") == ["Good"]
    fonts._characters.cache_clear()
