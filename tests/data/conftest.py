"""What the tests of the data room share: a cache of their own, small Amazon folders, the real files where present."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

REAL_DATA = Path(
    os.environ.get("IISAN_BENCH_DATA")
    or Path(__file__).resolve().parents[2].parent / "shared" / "data" / "amazon-scientific"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that no other test has seen."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def scientific() -> Path:
    """The folder of the Scientific dataset; skips the test where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the Amazon Scientific files are not here (IISAN_BENCH_DATA names their folder)")
    return REAL_DATA


def write_amazon(folder: Path, titles: Mapping[str, str], users: Mapping[str, Sequence[str]]) -> Path:
    """Write a folder of Amazon data and give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    items = "".join(f"{item}\t{title}\n" for item, title in titles.items())
    (folder / "x_items.tsv").write_text(items, encoding="utf-8", newline="\n")
    lines = "".join(f"{user}\t{' '.join(sequence)}\n" for user, sequence in users.items())
    (folder / "x_users.tsv").write_text(lines, encoding="utf-8", newline="\n")
    return folder
