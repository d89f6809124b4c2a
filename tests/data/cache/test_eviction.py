"""What may go goes, oldest first; what is in use, being built or not ours stays."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bench.data.cache.array_cache import open_or_build
from bench.data.cache.array_file import Layout
from bench.data.cache.catalogue_store import cached_catalogue
from bench.data.cache.eviction import Entry, entries
from bench.data.catalogue import Catalogue
from bench.utils.errors import UserError
from tests.data.cache.build_rows import KEY
from tests.data.cache.builds import ROOT, finish, make_catalogue, names, start, wait_for

SIZE = Layout("0" * 32, "states", (64, 256), "uint8").file_bytes


def key(number: int) -> str:
    return f"{number:032x}"


def make(root: Path, number: int, age: float | None = None, kind: str = "hidden") -> None:
    layout = Layout(key(number), "states", (64, 256), "uint8")
    open_or_build(root / kind, layout, lambda rows: np.full((len(rows), 256), number, dtype=np.uint8))
    if age is not None:
        then = time.time() - age
        os.utime(root / kind / f"{key(number)}.safetensors", (then, then))


def kept(root: Path) -> list[int]:
    return sorted(int(entry.key, 16) for entry in entries(root) if entry.kind in ("hidden", "pixels"))


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE_LIMIT", str(size))


def test_the_least_recently_used_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SIZE == 4096 + 64 * 256
    for number, (age, kind) in enumerate([(100, "hidden"), (400, "pixels"), (300, "hidden"), (200, "pixels")]):
        make(tmp_path, number, age, kind)
    limit(monkeypatch, 4 * SIZE)
    make(tmp_path, 2)  # served, so used now
    assert kept(tmp_path) == [0, 1, 2, 3]
    make(tmp_path, 7)
    assert kept(tmp_path) == [0, 2, 3, 7]
    limit(monkeypatch, 2 * SIZE + 5)
    make(tmp_path, 8)
    assert kept(tmp_path) == [7, 8]
    limit(monkeypatch, 100 * SIZE)
    make(tmp_path, 9)
    assert kept(tmp_path) == [7, 8, 9]


def test_what_is_in_use_stays_and_the_limit_is_kept_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(key(1), "states", (64, 256), "uint8")
    served = open_or_build(tmp_path / "hidden", layout, lambda rows: np.ones((len(rows), 256), dtype=np.uint8))
    make(tmp_path, 2)
    limit(monkeypatch, 2 * SIZE)
    make(tmp_path, 3)
    assert kept(tmp_path) == [1, 3]
    limit(monkeypatch, SIZE + SIZE // 2)
    with pytest.raises(UserError, match=r"20\.48 kB needed beside 20\.48 kB in use, more than the limit of 30\.72 kB"):
        make(tmp_path, 4)
    assert kept(tmp_path) == [1]
    assert names(tmp_path / "hidden") == [f"{key(1)}.safetensors"]
    del served
    make(tmp_path, 4)
    assert kept(tmp_path) == [4]


def test_a_file_beyond_the_limit_drives_nothing_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 1)
    limit(monkeypatch, SIZE - 1)
    with pytest.raises(UserError, match=r"20\.48 kB needed, more than the limit"):
        make(tmp_path, 2)
    assert kept(tmp_path) == [1]
    limit(monkeypatch, 5)
    monkeypatch.setenv("IISAN_BENCH_CACHE_LIMIT", "five")
    with pytest.raises(UserError, match="IISAN_BENCH_CACHE_LIMIT five: expected a size"):
        make(tmp_path, 2)


def test_a_running_build_stays_and_a_killed_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = start(tmp_path / "hidden", tmp_path / "log", 0.1)
    wait_for(tmp_path / "log", 3)
    limit(monkeypatch, 400_000)
    for number in (1, 2, 3, 4, 5):  # the build counts in full, 309 kB, so only four of these fit beside it
        make(tmp_path, number)
    (running,) = (entry for entry in entries(tmp_path) if entry.form == "partial")
    assert running.in_use()
    assert not running.remove()
    assert kept(tmp_path) == [2, 3, 4, 5, int(KEY, 16)]
    builder.kill()
    builder.wait()
    assert not running.in_use()
    for path in running.paths:
        os.utime(path, (1, 1))
    limit(monkeypatch, 5 * SIZE)
    make(tmp_path, 6)
    assert kept(tmp_path) == [2, 3, 4, 5, 6]
    assert KEY not in " ".join(names(tmp_path / "hidden"))


def test_another_process_that_reads_keeps_its_file(tmp_path: Path) -> None:
    finish(start(tmp_path / "hidden", tmp_path / "log"))
    code = (
        "from tests.data.cache.builds import build, Path\n"
        f"served, computed = build(Path({str(tmp_path / 'hidden')!r}))\n"
        "assert not computed\nprint('ready', flush=True)\ninput()"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    (entry,) = entries(tmp_path)
    assert entry.in_use()
    assert not entry.remove()
    reader.kill()
    reader.communicate()
    assert not entry.in_use()
    assert entry.remove()
    assert names(tmp_path / "hidden") == []


def test_only_this_programs_own_files_are_looked_at(tmp_path: Path) -> None:
    make(tmp_path, 1)
    others = ["hidden/model.safetensors", "hidden/notes.txt", "photos/cat.jpg", f"{key(1)}.safetensors", "tokens/a.npz"]
    others += ["catalogues/mine/book.pdf", f"hidden/{key(1)}.safetensors.bak", f"catalogues/{key(3)}"]
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    for name in (
        f"hidden/{key(2)}.npy",
        f"hidden/{key(2)}.json",
        f"tokens/{key(4) * 2}.npz",
        f"pixels/.{key(5)}.journal",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("ours")
    found = entries(tmp_path)
    assert sorted((entry.kind, entry.form) for entry in found) == [
        ("hidden", "outdated"),
        ("hidden", "outdated"),
        ("hidden", "whole"),
        ("pixels", "partial"),
        ("tokens", "whole"),
    ]
    assert all(entry.remove() for entry in found)
    assert entries(tmp_path) == []
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_what_a_killed_write_left_goes_after_an_hour(tmp_path: Path) -> None:
    left = tmp_path / "tokens" / f".{'a' * 64}.npz.{'b' * 32}.tmp"
    left.parent.mkdir()
    left.write_bytes(b"x")
    (entry,) = entries(tmp_path)
    assert entry.in_use()
    assert not entry.remove()
    os.utime(left, (time.time() - 4000,) * 2)
    (entry,) = entries(tmp_path)
    assert entry.remove()
    assert not left.exists()


# Catalogues


def catalogue_entry(cache: Path) -> Entry:
    (entry,) = entries(cache)
    assert entry.kind == "catalogues"
    return entry


def test_a_catalogue_goes_as_a_whole_and_not_while_its_pictures_are_mapped(cache: Path) -> None:
    name = "ab" * 32

    def build(_: Path) -> Catalogue:
        return make_catalogue()

    cached_catalogue(name, build)
    loaded = cached_catalogue(name, lambda _: pytest.fail("built twice"))
    entry = catalogue_entry(cache)
    assert entry.size >= sum(path.stat().st_size for path in (cache / "catalogues" / name).iterdir())
    assert entry.in_use()
    assert not entry.remove()
    assert np.array_equal(loaded.images, make_catalogue().images)  # type: ignore[arg-type]
    del loaded
    assert entry.remove()
    assert names(cache / "catalogues") == []
    cached_catalogue(name, build)
    assert catalogue_entry(cache).form == "whole"


def test_a_new_catalogue_drives_out_what_is_older(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(cache, 1, 100)
    cached_catalogue("ab" * 32, lambda _: make_catalogue())
    os.utime(cache / "hidden" / f"{key(1)}.safetensors", (1, 1))
    limit(monkeypatch, SIZE)
    cached_catalogue("cd" * 32, lambda _: make_catalogue())
    assert [entry.key[:2] for entry in entries(cache)] == ["ab", "cd"]
