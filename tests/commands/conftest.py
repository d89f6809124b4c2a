"""A recipe of two cells for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli_w

from tests.tiny import two_cells


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(two_cells(model_folders)))
    return path
