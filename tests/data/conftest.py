"""What the tests of the data room share: a cache of their own, small Amazon folders, the real files where present."""

import os
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
