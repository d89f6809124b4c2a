"""Run folders that were damaged or made up: a report, or one line that names the file."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import reports.build
from reports.analysis import resampling
from reports.analysis.run_comparison import compare
from reports.load.run_folders import load_run
from tests.fuzz.harness import answered, cases
from tests.fuzz.hostile import changed, controls, mutated, texts
from tests.reports.factory import make_run

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
OURS = {
    "text", "text_special", "strong_open", "strong_close", "em_open", "em_close", "softbreak", "code_inline",
    "link_open", "link_close", "image",
}  # fmt: skip
FILES = ("matrix.toml", "dataset.json", "environment.json", "record.json", "steps.csv", "ranks.csv")


class Run:
    """A sound run folder whose files are put back after each case."""

    def __init__(self, path: Path):
        self.path = make_run(path, methods=("fft", "lora", "iisan-cached"), seeds=(0,), ranks=True)
        cell = next((path / "cells").glob("lora*"))
        self.files = {name: path / name if (path / name).exists() else cell / name for name in FILES}
        self.ranks = (cell / "ranks.csv").read_text().splitlines()[:40]
        for ranks in path.glob("cells/*/ranks.csv"):
            ranks.write_text("\n".join(ranks.read_text().splitlines()[:40]) + "\n")
        self.sound = {name: file.read_bytes() for name, file in self.files.items()}

    def put(self, name: str, content: bytes) -> None:
        self.files[name].write_bytes(content)

    def restore(self) -> None:
        for name, content in self.sound.items():
            self.files[name].write_bytes(content)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "other", methods=("fft", "lora"), seeds=(0,))


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals from a few draws: what is looked for here does not hang on how many there are."""
    with pytest.MonkeyPatch.context() as patch:
        for function in (resampling.resampled_means, resampling.resampled_block_means, resampling.over_seeds):
            patch.setattr(function, "__defaults__", (20,))
        patch.setattr(resampling, "RESAMPLES", 20)
        yield


def readable(report: Path) -> None:
    """Nothing in the report steers a terminal or is markup that is not ours."""
    text = report.read_text(encoding="utf-8")
    assert not controls(text)
    for token in PARSER.parse(text):
        assert token.type != "html_block", token.content
        for child in token.children or []:
            assert child.type in OURS, (child.type, token.content)
            if child.type in ("link_open", "image"):
                target = str(child.attrs.get("href") or child.attrs.get("src"))
                assert target.startswith(("#", "figures/")), target


def build(run: Run, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    answered(lambda: reports.build.build([run.path], out), str(run.path), "method")
    if (out / "report.md").exists():
        readable(out / "report.md")
        for name in ("results.csv", "summary.csv"):
            assert (out / name).read_text(encoding="utf-8")


@given(data=st.data(), name=st.sampled_from(FILES))
@cases("run folders, bytes", 2)
def test_run_folders_with_broken_bytes_are_loaded_or_named(run: Run, data: st.DataObject, name: str) -> None:
    run.put(name, data.draw(mutated(run.sound[name])))
    try:
        answered(lambda: load_run(run.path), str(run.files[name]))
    finally:
        run.restore()


@pytest.mark.usefixtures("no_figures")
@given(data=st.data(), name=st.sampled_from(["record.json", "dataset.json", "environment.json", "record.json"]))
@cases("run folders, values", 0.5)
def test_run_folders_with_odd_values_give_a_readable_report(
    run: Run, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    value = data.draw(changed(json.loads(run.sound[name])))
    run.put(name, json.dumps(value).encode())
    try:
        build(run, tmp_path_factory.getbasetemp() / "out")
    finally:
        run.restore()


@pytest.mark.usefixtures("no_figures")
@given(data=st.data(), name=st.sampled_from(["steps.csv", "ranks.csv", "matrix.toml"]))
@cases("run folders, tables", 0.3)
def test_run_folders_with_broken_tables_give_a_readable_report(
    run: Run, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    run.put(name, data.draw(mutated(run.sound[name])))
    try:
        build(run, tmp_path_factory.getbasetemp() / "out")
    finally:
        run.restore()


NAMES = ("method", "error", "device", "dataset", "text_model", "machine", "warning", "option", "note", "reason")


def renamed(record: dict[str, Any], words: dict[str, str]) -> dict[str, Any]:
    row = record["row"] | {key: words[key] for key in NAMES[:5] if key in words}
    row["error"], row["cell_id"] = words.get("error", ""), row["cell_id"]
    method = record["method"] | {"name": row["method"], "options": {words.get("option", "rank"): 8}}
    return record | {"row": row, "method": method, "warnings": [words.get("warning", "slow")]}


@given(words=st.dictionaries(st.sampled_from(NAMES), texts.filter(str.strip), min_size=3))
@cases("run folders, names with figures", 0.03)
def test_hostile_names_in_reports_and_figures(
    run: Run, tmp_path_factory: pytest.TempPathFactory, words: dict[str, str]
) -> None:
    record = renamed(json.loads(run.sound["record.json"]), words)
    run.put("record.json", json.dumps(record).encode())
    dataset = json.loads(run.sound["dataset.json"])
    dataset |= {"notes": [words.get("note", "")], "dropped": {words.get("reason", "short"): 3}}
    run.put("dataset.json", json.dumps(dataset).encode())
    try:
        build(run, tmp_path_factory.getbasetemp() / "out")
    finally:
        run.restore()


@given(data=st.data(), name=st.sampled_from(["record.json", "steps.csv", "ranks.csv", "dataset.json"]))
@cases("runs to compare", 0.5)
def test_comparisons_with_broken_runs(run: Run, other: Path, data: st.DataObject, name: str) -> None:
    sound = run.sound[name]
    broken = data.draw(mutated(sound)) if name.endswith("csv") or data.draw(st.booleans()) else None
    run.put(name, json.dumps(data.draw(changed(json.loads(sound)))).encode() if broken is None else broken)
    try:
        answered(lambda: compare(other, run.path, allow_different=True), str(run.path))
        answered(lambda: compare(run.path, other), str(run.path))
    finally:
        run.restore()
