"""Tests of report.html without a browser: content, security policy, size and time to render."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from reports.analysis.comparison import split_into_comparisons
from reports.analysis.tables import results, summary
from reports.figures.drawing import Drawing
from reports.figures.style import on_dark, styles_of
from reports.load.run_folders import load_run
from reports.render.html import MOST_WITH_FIGURES, page
from reports.render.html_parts import plain, to_html
from reports.render.markdown import chapters
from tests.reports.factory import METHODS, make_run
from tests.reports.pages import Large, page_from

EVIL = '</script><b>&amp;"]]>\u2028<!-- {{ 1 }}'


class Tags(HTMLParser):
    """Parser that checks that every tag is closed, and keeps the attributes of each tag."""

    VOID = frozenset({"meta", "link", "input", "br", "hr", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def text(built: Path) -> str:
    return (built / "report.html").read_text(encoding="utf-8")


def test_the_markup_is_well_formed_and_holds_no_style_or_handler(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    attributes = {name for _, found in tags.seen for name in found}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}
    assert sum(tag == "h1" for tag, _ in tags.seen) == 1
    assert sum(tag == "table" for tag, _ in tags.seen) == sum(tag == "caption" for tag, _ in tags.seen) > 8


def test_the_policy_allows_the_own_script_and_style_alone(text: str) -> None:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found
    policy = dict(part.split(" ", 1) for part in html.unescape(found[1]).split("; "))
    for kind in ("script", "style"):
        content = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        assert len(content) == 1
        digest = base64.b64encode(hashlib.sha256(content[0].encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "data:"
    assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_nothing_points_outside(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    targets = [
        value for _, found in tags.seen for name, value in found.items() if name in {"href", "src", "xlink:href"}
    ]
    assert targets
    assert all(value is not None and value.startswith(("#", "data:")) for value in targets)
    ids = {found["id"] for _, found in tags.seen if "id" in found}
    assert {value[1:] for value in targets if value and value.startswith("#")} <= ids


def test_all_figures_stand_in_the_page(text: str) -> None:
    tags = Tags()
    tags.feed(text)
    pictures = [str(found["aria-label"]) for tag, found in tags.seen if tag == "svg" and found.get("role") == "img"]
    assert len(pictures) == 8
    assert all(len(label) > 40 for label in pictures)
    assert text.count("<figcaption>") == 9
    assert "no energy was measured" in text


def data_in(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, flags=re.DOTALL)
    assert found
    return json.loads(found[1])


def test_text_from_data_cannot_leave_its_place(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", methods=["fft", "lora", EVIL], seeds=[0], changes={EVIL: {"trainable_params": 7}})
    text = page_from([run])
    assert {method["name"] for method in data_in(text)["comparisons"][0]["methods"]} == {"fft", "lora", EVIL}
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert [tag for tag, _ in tags.seen].count("script") == 2
    assert text.count("{{ 1 }}") > 2


def test_markdown_becomes_markup_and_html_becomes_text() -> None:
    markup = to_html("<b>x</b> **y** <!-- z -->\n\n| a | b |\n| --- | ---: |\n| <i> | 2 |", {}, 'on "all"')
    assert "&lt;b&gt;x&lt;/b&gt; <strong>y</strong> &lt;!-- z --&gt;" in markup
    assert '<th scope="row">&lt;i&gt;</th>' in markup
    assert '<td class="number">2</td>' in markup
    assert '<th class="number" scope="col">b</th>' in markup
    assert '<caption class="hidden">on &quot;all&quot;</caption>' in markup
    assert plain(r"a \*b\* &lt;c&gt; **d**") == "a *b* <c> d"


def test_methods_without_costs_or_accuracy_are_in_the_table_alone(tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "lora": {"status": "oom", "error": "out of memory"}, "frozen": {"hr@10": None}, "iisan": {"epoch_seconds": None}
    }  # fmt: skip
    run = make_run(tmp_path / "run", seeds=[0], changes=changes)
    methods = {method["name"]: method for method in data_in(page_from([run]))["comparisons"][0]["methods"]}
    assert methods["lora"]["costs"] is methods["lora"]["accuracy"] is methods["lora"]["low"] is None
    assert methods["frozen"]["accuracy"] is None
    assert methods["iisan"]["costs"] is None
    assert methods["fft"]["costs"][1] == METHODS["fft"][2]


def test_one_method_alone_has_the_reason_in_the_place_of_weights(tmp_path: Path) -> None:
    text = page_from([make_run(tmp_path / "run", methods=["lora"], seeds=[0])])
    assert "TPME cannot be computed: TPME compares methods" in text
    assert "data-weights" not in re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_four_hundred_records_take_seconds_and_a_bounded_file(large: Large) -> None:
    assert large.seconds < 40
    assert len(large.text.encode()) < 5_000_000
    data = data_in(large.text)
    assert sum(len(comparison["methods"]) for comparison in data["comparisons"]) == 400
    tags = Tags()
    tags.feed(large.text)
    assert [tag for tag, _ in tags.seen].count("details") == 51  # and the verdicts


def test_figures_of_many_comparisons_are_linked(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0]))]
    cells = results(runs[0].records)
    (comparison,) = split_into_comparisons(runs, runs[0].records, cells, summary(cells))
    drawing = Drawing("costs", "Costs", "Caption.", b"png", b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    styles = styles_of(comparison.methods)
    for count, linked in ((1, 0), (MOST_WITH_FIGURES, 0), (MOST_WITH_FIGURES + 1, MOST_WITH_FIGURES + 1)):
        drawings = [[drawing]] * count
        text = page(runs, chapters(runs, [comparison] * count, drawings, [], tmp_path), drawings, styles)
        assert text.count('<a href="figures/costs.png">') == linked
        assert text.count('aria-label="Costs. Caption."') == count - linked


@pytest.mark.parametrize("color", ["#000000", "#332288", "#0072B2", "#E69F00", "#ffffff"])
def test_colours_stand_out_on_a_dark_page(color: str) -> None:
    def luminance(value: str) -> float:
        parts = [int(value[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    assert (luminance(on_dark(color)) + 0.05) / (luminance("#1b1d20") + 0.05) >= 4.5
