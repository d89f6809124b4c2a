"""The cache command and the cache's options of ``run``, from the command line to the disk."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.cell.assemble import assemble
from bench.commands import run
from bench.data.cache.eviction import entries
from tests.data.cache.build_rows import KEY
from tests.data.cache.builds import build
from tests.helpers import call
from tests.tiny import cell_of


@pytest.fixture(scope="module")
def template(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache after a cell with titles, pictures and hidden states of two encoders."""
    folder = tmp_path_factory.mktemp("template") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IISAN_BENCH_CACHE", str(folder))
        assemble(cell_of("iisan-cached", model_folders), torch.device("cpu"))
    return folder


@pytest.fixture
def filled(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it that a test may damage."""
    folder = tmp_path / "cache"
    shutil.copytree(template, folder)
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(folder))
    return folder


def rows(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert call("cache", *arguments, "--json") == code
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_list_tells_what_is_there(filled: Path, model_folders: dict[str, Path], capsys: Any) -> None:
    found = rows(capsys, "list")
    assert sorted(row["kind"] for row in found) == ["catalogues", "hidden", "hidden", "tokens"]
    assert {row["state"] for row in found} == {"ready"}
    by_modality = {row["modality"]: row for row in found if row["kind"] == "hidden"}
    for modality, family in (("text", "bert"), ("image", "vit")):
        row = by_modality[modality]
        assert row["model"] == str(model_folders[family])
        assert (row["items"], row["layers"], row["dtype"]) == (60, "0 2 4", "float16")
        assert row["bytes"] == Path(row["path"]).stat().st_size
        assert row["key"] == Path(row["path"]).stem
    assert sum(row["bytes"] for row in found) == sum(
        path.stat().st_size for path in filled.rglob("*") if path.is_file() and path.parent != filled
    )
    assert call("cache", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 4 + 1
    assert lines[-1].startswith(f"{filled}: 4 entries, ")


@pytest.mark.parametrize("kind", ["hidden", "tokens", "catalogues"])
def test_verify_names_what_was_damaged(kind: str, filled: Path, capsys: Any) -> None:
    assert all(row["state"] == "ready" for row in rows(capsys, "verify"))
    path = next(path for path in sorted((filled / kind).rglob("*.[ns]*")) if path.is_file())
    raw = bytearray(path.read_bytes())
    raw[-40 if kind != "tokens" else 200] ^= 4
    path.write_bytes(raw)
    found = rows(capsys, "verify", code=1)
    (damaged,) = (row for row in found if row["state"].startswith("damaged: "))
    assert path.is_relative_to(damaged["path"])
    assert call("cache", "verify") == 1
    assert capsys.readouterr().out.rstrip().endswith(", 1 damaged")


def test_clear_takes_all_or_what_is_old_and_leaves_what_is_in_use(filled: Path, capsys: Any) -> None:
    reading, _ = build(filled / "hidden")
    old = next((filled / "tokens").iterdir())
    os.utime(old, (time.time() - 3 * 86_400,) * 2)
    removed = rows(capsys, "clear", "--older-than", "2d")
    assert [(row["kind"], row["state"]) for row in removed] == [("tokens", "removed")]
    assert not old.exists()
    removed = rows(capsys, "clear")
    assert sorted((row["kind"], row["state"]) for row in removed) == [
        ("catalogues", "removed"),
        ("hidden", "in use, kept"),
        ("hidden", "removed"),
        ("hidden", "removed"),
    ]
    assert [entry.key for entry in entries(filled)] == [KEY]
    del reading
    assert call("cache", "clear") == 0
    assert "removed from" in capsys.readouterr().out
    assert rows(capsys, "list") == []


def test_names_from_files_do_not_move_the_cursor(tmp_path: Path, capsys: Any) -> None:
    from bench.data.cache.array_cache import open_or_build
    from bench.data.cache.array_file import Layout
    from tests.data.cache.build_rows import LAYOUT, row_values

    layout = Layout(KEY, "states", LAYOUT.shape, "float32", {"model": "bad\x1b[2Jname\nnext"})
    open_or_build(tmp_path / "hidden", layout, row_values)
    assert call("cache", "list", "--cache-dir", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["cache"], "action"),
        (["cache", "empty"], "invalid choice: 'empty'"),
        (["cache", "list", "--older-than", "3d"], "--older-than: not allowed with cache list"),
        (["cache", "clear", "--older-than", "3 days"], "--older-than 3 days: expected an age"),
        (["run", "--cache-limit", "much"], "--cache-limit much: expected a size"),
        (["run", "--cache-limit", "0"], "--cache-limit 0: expected a size above zero"),
    ],
)
def test_bad_usage(arguments: list[str], said: str, capsys: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == 2
    out, err = capsys.readouterr()
    assert said in err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("place", ["file", "file/below", "/sys/iisan-bench"])
def test_a_cache_that_cannot_be_had_is_told_before_anything_runs(
    place: str, recipe: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / place
    monkeypatch.setattr(run, "run_local", lambda *_: pytest.fail("a cell was started"))
    for options in (["--cache-dir", str(folder)], []):
        if not options:
            monkeypatch.setenv("IISAN_BENCH_CACHE", str(folder))
        assert call("run", "--config", str(recipe), "--out", str(tmp_path / "run"), *options) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"cache folder {folder}: cannot be made or written" in line
        assert "--cache-dir or IISAN_BENCH_CACHE" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_options_reach_the_cells(recipe: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "elsewhere", tmp_path / "run"
    options = ["--methods", "iisan-cached", "--cache-dir", str(folder), "--cache-limit", "4 kB"]
    assert call("run", "--config", str(recipe), "--out", str(out), *options) == 1
    (record,) = out.glob("cells/*/record.json")
    error = json.loads(record.read_text())["row"]["error"]
    assert f"cache folder {folder}: " in error
    assert "needed, more than the limit of 4 kB" in error
