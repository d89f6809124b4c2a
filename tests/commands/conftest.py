"""A recipe of two cells for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import matrix


@pytest.fixture
def recipe(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    import tomli_w

    data = matrix(model_folders, methods=[{"name": "frozen"}, {"name": "iisan-cached", "bottleneck": 4}])
    data["budget"] = {"steps": 2, "batch_size": 16}
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(data))
    return path
