"""The pages that people read: their links, commands and paths exist, and the results table agrees with its file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from bench.scoring import tpme
from run_bench import build_parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("[a-z]*/README.md")), ROOT / "reports/reference/README.md"]
PAGES += sorted(ROOT.glob(".github/*.md"))
PACKAGES = r"(?:bench|methods|reports|tests)"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def tokens(page: Path) -> Iterator[Token]:
    """Every token of a page, inline ones included."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def anchors(page: Path) -> set[str]:
    """The headings as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(page: Path) -> list[str]:
    """Inline code, and the lines of code blocks; a line that ends with a backslash is joined to the next."""
    found = [t.content for t in tokens(page) if t.type in ("code_inline", "code_block", "fence")]
    return [line.strip() for text in found for line in text.replace("\\\n", " ").splitlines()]


def parses(arguments: list[str]) -> bool:
    try:
        build_parser().parse_args(arguments)
    except SystemExit as status:
        return status.code == 0  # --help
    return True


def test_the_main_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@every_page
def test_links_and_images_lead_somewhere(page: Path) -> None:
    targets = [str(t.attrs.get("href") or t.attrs.get("src")) for t in tokens(page) if t.type in ("link_open", "image")]
    for target in targets:
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@every_page
def test_commands_parse(page: Path) -> None:
    for line in code(page):
        found = re.search(r"\bpython run_bench\.py\b(.*)", line)
        if found:
            assert parses(shlex.split(found[1], comments=True) or ["run"]), line


@every_page
def test_paths_and_modules_exist(page: Path) -> None:
    for line in code(page):
        for path in re.findall(rf"(?<![\w./-]){PACKAGES}/[\w./*-]*\w", line):
            exists = list(ROOT.glob(path)) or "NAME" in path
            assert exists, path
        for name in re.findall(rf"(?<![\w./-]){PACKAGES}(?:\.\w+)+", line):
            module = ROOT / name.replace(".", "/")
            assert module.is_dir() or module.with_suffix(".py").is_file(), name


def test_the_results_are_those_of_their_file() -> None:
    rows = pd.read_csv(ROOT / "reports/reference/cpu/default.csv")
    costs = {"time": "epoch_seconds", "params": "trainable_params", "memory": "peak_memory_bytes"}
    figures = rows.set_index("method")[["hr@10", *costs.values()]]
    scores = tpme.tpme({m: {name: row[column] for name, column in costs.items()} for m, row in figures.iterrows()})
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(.+?)` \|[^|]+\| (.+) \|$", readme, re.MULTILINE)
    assert [method for method, _ in table] == list(figures.index)
    for method, text in table:
        row, base = figures.loc[method], figures.loc["fft"]
        seconds = row["epoch_seconds"]
        ratio = {c: "" if method == "fft" else f" ({row[c] / base[c]:.2f}×)" for c in costs.values()}
        assert text.split(" | ") == [
            f"{row['hr@10']:.3f}",
            f"{seconds:.{1 if seconds >= 1 else 2}f}{ratio['epoch_seconds']}",
            f"{row['trainable_params']:,.0f}",
            f"{row['peak_memory_bytes'] / 2**20:.1f} MiB{ratio['peak_memory_bytes']}",
            f"{scores[method]:.3f}",
        ]


def test_the_probes_are_those_of_their_files() -> None:
    page = (ROOT / "bench/README.md").read_text(encoding="utf-8")
    links = r"^\| \[(\w+, \w+)\]\(models/builtin/([\w-]+)/pretraining\.json\) \| (\w+) \| (.+) \|$"
    shown = {(folder, name): row for _, folder, name, row in re.findall(links, page, re.MULTILINE)}
    wanted = {}
    for file in (ROOT / "bench/models/builtin").glob("*/pretraining.json"):
        facts = json.loads(file.read_text(encoding="utf-8"))
        for name, accuracies in facts["probes"].items():
            wanted[file.parent.name, name] = " | ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    assert {key: row.replace("*", "") for key, row in shown.items()} == wanted


def test_the_accuracies_on_two_shops_are_those_of_their_file() -> None:
    rows = pd.read_csv(ROOT / "reports/reference/cpu/coverage.csv")
    rows = rows[(rows["modality"] == "text+image") & (rows["weights"] == "pretrained")]

    def shown(pair: str, shop: int, method: str, epochs: int = 6) -> str:
        cell = (rows["text_model"] == pair) & (rows["dataset_seed"] == shop) & (rows["method"] == method)
        values = rows.loc[cell & (rows["epochs"] == epochs), "hr@10"]
        spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
        return f"{values.mean():.3f}{spread}" if len(values) else ""

    page = (ROOT / "reports/reference/README.md").read_text(encoding="utf-8")
    part = page.split("\n## Does the shop measure anything?\n")[1]
    methods = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$", part, re.MULTILINE)
    assert {method for method, *_ in methods} >= set(rows["method"])
    for method, *texts in methods:
        if method in set(rows["method"]):
            wanted = [shown("shop-mixed", shop, method, epochs) for epochs in (6, 12) for shop in (1, 2)]
            assert [text.strip() for text in texts] == wanted
    pairs = re.findall(r"^\| `(shop-\w+)` \| (\d) \| (.+) \|$", part, re.MULTILINE)
    assert len(pairs) == 6
    for pair, shop, text in pairs:
        wanted = [shown(pair, int(shop), method) for method in ("fft", "frozen", "iisan", "iisan-cached")]
        assert [value.strip() for value in text.split(" | ")] == wanted
