"""Tests of report.html in a browser: weights, sorting, filtering, sizes, hostile names, no network access."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.scoring import tpme
from reports.analysis.options import Options
from reports.build import build
from tests.reports import chromium
from tests.reports.chromium import Browser
from tests.reports.factory import METHODS, dataset, make_run, write_json
from tests.reports.pages import Large, page_from

PROGRAM = chromium.find()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason=f"none of {', '.join(chromium.NAMES)} is installed"),
]

ROWS = '[...document.querySelectorAll("#table-0 tbody[data-sorted] tr")]'
NAMES = f'{ROWS}.map((row) => row.querySelector("th").textContent)'
HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)><!--"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as started:
        yield started


@pytest.fixture(scope="module")
def run(built: Path) -> Path:
    return built


@pytest.fixture
def page(browser: Browser, run: Path) -> Browser:
    browser.open(run / "report.html")
    return browser


def costs_of(path: Path) -> dict[str, dict[str, float]]:
    """Time, parameters and memory of the methods that ended ok, as means over seeds, from the records."""
    rows = [json.loads(file.read_text())["row"] for file in path.glob("cells/*/record.json")]
    columns = {"time": "epoch_seconds", "params": "trainable_params", "memory": "peak_memory_bytes"}
    found: dict[str, dict[str, float]] = {}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method and row["status"] == "ok"]
        found[method] = {name: sum(row[column] for row in mine) / len(mine) for name, column in columns.items()}
    return found


def move(page: Browser, place: int, value: float) -> list[float]:
    """Set a slider with an input event, and return the weights that the page shows."""
    page.run(
        f"(() => {{ const slider = document.querySelector('[data-weight=\"{place}\"]'); slider.value = {value}; "
        "slider.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )
    page.settle()
    shown = page.run("[...document.querySelectorAll('[data-weights] output')].slice(0, 3).map((o) => o.textContent)")
    return [float(text) for text in shown]


def scores_in(page: Browser) -> dict[str, float]:
    both = '[row.querySelector("th").textContent, Number(row.querySelector("[data-tpme]").dataset.value)]'
    cells = page.run(f"{ROWS}.map((row) => {both})")
    return dict(cells)


def test_the_order_follows_the_weights_as_tpme_says(page: Browser, run: Path) -> None:
    costs = costs_of(run)
    assert page.run(NAMES) == list(tpme.order_of(tpme.tpme(costs)))
    draw = random.Random(5)
    orders = set()
    for place, value in [
        (1, 1.0),
        (2, 0.97),
        (0, 1.0),
        (1, 0.0),
        *((draw.randrange(3), draw.random()) for _ in range(20)),
    ]:
        weights = move(page, place, round(value, 2))
        assert sum(weights) == pytest.approx(1, abs=1e-9)
        assert weights[place] == pytest.approx(round(value, 2), abs=1e-9)
        expected = tpme.tpme(costs, weights)
        assert scores_in(page) == pytest.approx(expected, abs=1e-12)
        order = list(tpme.order_of(expected))
        assert [round(expected[name], 9) for name in page.run(NAMES)] == [round(expected[name], 9) for name in order]
        assert page.run("document.querySelector('[data-order]').textContent").split(" < ")[0] == order[0]
        orders.add(tuple(order))
    assert len(orders) > 6
    page.run("document.querySelector('[data-reset]').click()")
    page.settle()
    assert scores_in(page) == pytest.approx(tpme.tpme(costs), abs=1e-12)


def test_a_weight_moved_to_and_fro_leaves_the_others_as_they_were(page: Browser) -> None:
    for value in (0.9, 1.0, 0.3, 0.45):
        weights = move(page, 0, value)
    assert weights == [0.45, 0.1, 0.45]


def test_a_pinned_range_is_kept(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", seeds=[0])
    costs = costs_of(run)
    pinned = {name: {key: 1.5 * value for key, value in row.items()} for name, row in costs.items()}
    path = tmp_path / "report.html"
    path.write_text(page_from([run], Options(weights=(0.2, 0.3, 0.5), reference=pinned)), encoding="utf-8")
    browser.open(path)
    assert scores_in(browser) == pytest.approx(tpme.tpme(costs, (0.2, 0.3, 0.5), pinned), abs=1e-12)
    weights = move(browser, 2, 0.9)
    assert scores_in(browser) == pytest.approx(tpme.tpme(costs, weights, pinned), abs=1e-12)


def test_nothing_is_asked_for_and_nothing_complained_of(page: Browser, run: Path) -> None:
    move(page, 1, 0.7)
    page.run("document.getElementById('theme').click()")
    assert page.requests() == [(run / "report.html").resolve().as_uri()]
    assert page.complaints() == []


def test_the_policy_refuses_requests_of_scripts(page: Browser) -> None:
    assert page.run("fetch('https://example.org/').then(() => 'left', () => 'stayed')") == "stayed"
    assert any("Content Security Policy" in text for text in page.complaints())
    page.run("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))")
    assert page.run("window.ran ?? null") is None


def test_sorting_by_keyboard(page: Browser) -> None:
    def press_until(selector: str) -> None:
        for _ in range(60):
            page.press("Tab")
            if page.run(f"document.activeElement.matches('{selector}')"):
                return
        raise AssertionError(f"the Tab key never comes to {selector}")

    press_until("#table-0 thead th:nth-child(2) button")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    accuracy = 'document.querySelectorAll("#table-0 thead th")[1].getAttribute("aria-sort")'
    values = f"{ROWS}.map((row) => Number(row.cells[1].dataset.value))"
    page.press("Enter")
    assert page.run(accuracy) == "descending"
    assert page.run(values) == sorted(page.run(values), reverse=True)
    page.press("Enter")
    assert page.run(accuracy) == "ascending"
    assert page.run(values) == sorted(page.run(values))
    assert page.run('document.querySelectorAll("#table-0 [aria-sort]:not([aria-sort=none])").length') == 1
    before = page.run(NAMES)
    move(page, 0, 0.0)
    assert page.run(NAMES) == before  # the weights turn a table round that is sorted by TPME, and no other
    page.run('document.querySelectorAll("#table-0 thead button")[0].click()')
    assert page.run(NAMES) == sorted(METHODS)


def test_sliders_by_keyboard(page: Browser, run: Path) -> None:
    page.run("document.querySelector('[data-weight=\"1\"]').focus()")
    page.press("End")
    page.settle()
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "1.000"
    fewest = min(costs_of(run).items(), key=lambda item: item[1]["params"])[0]
    assert page.run(NAMES)[0] == fewest
    page.press("ArrowLeft")
    page.settle()
    assert page.run("document.activeElement.getAttribute('aria-valuetext')") == "0.990"


def test_points_tell_their_figures(page: Browser, run: Path) -> None:
    tip = "document.querySelector('.tip')?.textContent ?? null"
    halo = "document.querySelector('.point[data-name=lora] .halo')"
    page.run(f"{halo}.scrollIntoView({{ comparison: 'center' }})")
    x, y = page.run(f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])({halo}.getBoundingClientRect())")
    assert page.run(tip) is None
    page.point_at(x, y)
    score = tpme.tpme(costs_of(run))["lora"]
    assert page.run(tip).startswith(f"loraTPME: {score:.3f}HR@10: 0.2")
    page.point_at(1, 1)
    assert page.run(tip) is None
    page.run("document.querySelector('.point[data-name=fft]').focus()")
    assert page.run(tip).startswith("fftTPME: 1.000")
    assert "s per epoch: " in page.run("document.activeElement.getAttribute('aria-label')")
    page.press("Escape")
    assert page.run(tip) is None


@pytest.mark.parametrize("width", [320, 380, 800, 1280])
def test_nothing_overflows(browser: Browser, run: Path, width: int) -> None:
    browser.open(run / "report.html", width=width)
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('.scatter svg').getBoundingClientRect().right") <= width


@pytest.mark.parametrize("width", [380, 1280])
def test_names_in_a_crowd_can_be_read(browser: Browser, tmp_path: Path, width: int) -> None:
    crowd = [f"a-variant-{n}" for n in range(11)]
    costs = {name: {"epoch_seconds": 2 + 0.01 * n, "hr@10": 0.2 + 0.001 * (n % 4)} for n, name in enumerate(crowd)}
    path = tmp_path / "report.html"
    path.write_text(page_from([make_run(tmp_path / "run", ["fft", *crowd], [0], costs)]), encoding="utf-8")
    browser.open(path, width=width)
    boxes = browser.run(
        "[...document.querySelectorAll('.scatter .name')].map((e) => e.getBBox())"
        ".map((b) => [b.x, b.y, b.width, b.height])"
    )
    assert 2 < len(boxes) <= 12
    for (x, y, wide, high), (u, v, w, h) in itertools.combinations(boxes, 2):
        across, down = min(x + wide, u + w) - max(x, u), min(y + high, v + h) - max(y, v)
        assert max(across, 0) * max(down, 0) <= 0.25 * min(wide * high, w * h)
    assert browser.run("document.querySelectorAll('.scatter .leader').length") > 0
    assert browser.run("document.querySelectorAll('.scatter .point').length") == 12  # all can still be pointed at


def test_every_control_and_picture_has_a_name(page: Browser) -> None:
    nameless = (
        "[...document.querySelectorAll('button, input, a, svg[role=img], figure > [role], .scroll, table')].filter("
        "(e) => !(e.ariaLabel || e.getAttribute('aria-label') || e.labels?.length || e.caption?.textContent.trim() || "
        "(e.matches('button, a') && e.textContent.trim()))).map((e) => e.outerHTML.slice(0, 120))"
    )
    assert page.run(nameless) == []
    assert page.run("[...document.querySelectorAll('th')].filter((e) => !e.scope).length") == 0
    assert page.run("new Set([...document.querySelectorAll('[id]')].map((e) => e.id)).size") == page.run(
        "document.querySelectorAll('[id]').length"
    )
    assert page.run("[...document.querySelectorAll('a[href^=\"#\"]')].every((a) => document.querySelector(a.hash))")


def test_light_and_dark(browser: Browser, run: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    rows = "[...document.querySelectorAll('#table-0 [data-method]')]"
    lora = f"getComputedStyle({rows}.find((e) => e.textContent.includes('lora')).querySelector('.mark > *')).fill"
    browser.open(run / "report.html")
    light = browser.run(ground), browser.run(lora)
    browser.run("document.getElementById('theme').click()")
    dark = browser.run(ground), browser.run(lora)
    browser.open(run / "report.html", dark=True)
    assert (browser.run(ground), browser.run(lora)) == dark
    assert (light[0], light[1]) == ("rgb(255, 255, 255)", "rgb(0, 114, 178)")
    assert dark[0] != light[0]
    browser.run("document.getElementById('theme').click()")
    assert (browser.run(ground), browser.run(lora)) == light


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    changes = {HOSTILE: {"trainable_params": 7, "error": HOSTILE}}
    run = make_run(tmp_path / "run", methods=["fft", "lora", HOSTILE], seeds=[0], changes=changes, dataset=HOSTILE)
    write_json(run / "dataset.json", {**dataset(), "name": HOSTILE, "notes": [HOSTILE], "dropped": {HOSTILE: 1}})
    (run / "matrix.toml").write_text(f"name = {json.dumps(HOSTILE)}\n")
    build([run], run)
    browser.open(run / "report.html")
    assert browser.run("document.querySelectorAll('script').length") == 2
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert HOSTILE in browser.run(NAMES)
    assert browser.run("document.title").endswith(HOSTILE)
    browser.run("document.querySelector('.point').focus()")
    move(browser, 1, 1.0)
    assert browser.run(NAMES)[0] == HOSTILE
    assert browser.complaints() == []
    assert browser.requests() == [(run / "report.html").resolve().as_uri()]


def test_hundreds_of_rows_stay_usable(browser: Browser, large: Large, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(large.text, encoding="utf-8")
    browser.open(path)
    rows = "[...document.querySelectorAll('#all tbody tr')].filter((row) => !row.hidden).length"
    assert browser.run(rows) == 400
    move(browser, 0, 0.9)
    before = browser.busy()
    for value in (0.2, 0.6, 0.3):
        move(browser, 0, value)
    assert browser.busy() - before < 3 * 0.5  # seconds: it follows a hand
    browser.run(
        "(() => { const box = document.getElementById('filter-all'); box.value = 'iisan data3 text-2'; "
        "box.dispatchEvent(new Event('input')); })()"
    )
    assert browser.run(rows) == 2
    assert browser.run("document.querySelector('[data-count=all]').textContent") == "2 of 400 rows"
    assert browser.run("[...document.querySelectorAll('details')].filter((d) => d.open).length") == 0
    browser.run("location.hash = '#comparison-7'")
    browser.run("new Promise((done) => setTimeout(done, 100))")  # until it is unfolded and drawn
    assert browser.run("document.querySelector('#comparison-7').closest('details').open")
    assert browser.run("document.querySelector('[data-scatter=\"6\"] svg') !== null")
    browser.open(path, width=380)
    assert browser.run("document.documentElement.scrollWidth") <= 380
    assert browser.complaints() == []
