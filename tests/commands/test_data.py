"""The data command: text, JSON, page, what it refuses, and that it loads nothing heavy for its help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import run_bench
from tests.data.small_amazon import write_amazon
from tests.data.tables import ROWS, TITLES, USERS, write_microlens, write_recbole, write_table

ROOT = Path(__file__).parents[2]
WRITERS = {"table": write_table, "recbole": write_recbole, "microlens": write_microlens}


def call(*arguments: str) -> int:
    try:
        return run_bench.main(["data", *arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("named", [True, False])
def test_a_folder_is_recognised_or_named(
    name: str, named: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS[name](tmp_path)
    assert call(str(tmp_path), *(["--dataset", name] if named else []), "--json") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts["name"], facts["users"], facts["items"]) == (name, 3, 21)
    assert err.startswith("data: reading")


def test_text_keeps_a_terminal_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_amazon(tmp_path, {item: f"\x1b[2Jx {item}" for item in TITLES}, USERS)
    assert call(str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "users with fewer than 5 interactions" in out


def test_the_shop_without_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--shop-seed", "3") == 0
    out = capsys.readouterr().out
    assert "6,000 train, 6,000 valid, 6,000 test" in out
    assert "of bayes" in out


def test_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = {**TITLES, "B3": "<script>alert(1)</script> | `x`", "B4": "<script>alert(1)</script> | `x`"}
    write_table(tmp_path / "data", titles, ROWS)
    out = tmp_path / "deep" / "out"
    assert call(str(tmp_path / "data"), "--out", str(out), "--json") == 0
    page = (out / "data.md").read_text(encoding="utf-8")
    assert "<script>" not in page
    assert json.loads((out / "data.json").read_text()) == json.loads(capsys.readouterr().out)
    figures = [line.split("(")[-1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert figures == ["figures/lengths.png", "figures/popularity.png", "figures/title-words.png"]
    for figure in figures:
        with Image.open(out / figure) as image:
            assert image.width == 1280


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such"], "no/such: no such folder"),
        (["{empty}"], "looks like no known dataset; choose with --dataset: amazon, table"),
        (["{empty}", "--dataset", "table"], "no file named items.csv or items.parquet"),
        (["{empty}", "--dataset", "tabel"], "--dataset: "),
        (["{empty}", "--dataset", "shop"], "the shop is generated and reads no folder"),
        (["--dataset", "table"], "needs --data-dir"),
        (["{table}", "--split", "temporal"], "needs --valid-from and --test-from"),
        (["{table}", "--split", "sideways"], "--split: "),
        (["{table}", "--user-column", "who"], "no column 'who' (user)"),
        (["{table}", "--min-rating", "4"], "no column 'rating' for --min-rating; name it with --rating-column"),
        (["{table}", "--rating-column", "stars"], "--rating-column: needs --min-rating"),
        (["--min-rating", "4"], "--min-rating: dataset shop has no ratings"),
        (["{table}", "--image-dir", "no/such"], "--image-dir no/such: no such folder"),
        (["--split", "temporal", "--valid-from", "1", "--test-from", "2"], "dataset shop has no timestamps"),
    ],
)
def test_refusals(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    write_table(tmp_path / "table")
    folders = {"empty": tmp_path / "empty", "table": tmp_path / "table"}
    assert call(*(argument.format(**folders) for argument in arguments)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_loss_is_a_warning_and_no_note_besides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = [(user, f"0{item}" if n % 4 == 0 else item, time) for n, (user, item, time) in enumerate(ROWS)]
    write_table(tmp_path, TITLES, lost)
    assert call(str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert out.startswith("warning: interactions.csv: 9 of 33 interactions name items that are not in items.csv, '0B0'")
    assert out.count("name items that are not in") == 1


def test_run_warns_of_a_loss_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = [(user, f"0{item}" if n % 4 == 0 else item, time) for n, (user, item, time) in enumerate(ROWS)]
    write_table(tmp_path, {item: f"Thing {item}" for item in TITLES}, lost)
    options = ["--modality", "text", "--text-model", "shop-full", "--methods", "frozen", "--steps", "1"]
    out = ["--out", str(tmp_path / "out")]
    # The tokenizer of the shop does not know these titles: the run ends before its first cell.
    assert run_bench.main(["run", "--dataset", "table", "--data-dir", str(tmp_path), *options, *out]) == 2
    said = capsys.readouterr().err
    warning, *_, error = said.splitlines()
    assert warning.startswith("warning: interactions.csv: 9 of 33 interactions name items that are not in items.csv")
    assert "its tokenizer does not know" in error
    assert said.count("name items that are not in") == 1


def test_the_least_rating_by_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_recbole(tmp_path)
    assert call(str(tmp_path), "--min-rating", "4.5", "--json") == 2
    assert "no interactions are left, 33 interactions with a rating below 4.5" in capsys.readouterr().err
    assert call(str(tmp_path), "--min-rating", "4", "--rating-column", "rating", "--json") == 0
    assert json.loads(capsys.readouterr().out)["users"] == 3


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, run_bench\ntry: run_bench.main(['data', '--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "example:" in done.stdout
    assert not {"numpy", "pandas", "torch", "pydantic"} & set(done.stdout.splitlines()[-1].split())
