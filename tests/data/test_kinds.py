"""The table of the kinds of datasets against the code that reads them."""

import pytest
from pydantic import ValidationError

from bench.data.config import DatasetConfig
from bench.data.datasets import LOADERS
from bench.data.kinds import GENERATED, KINDS
from bench.data.readers.file_layouts import LAYOUTS


def test_every_kind_has_a_reader() -> None:
    assert list(KINDS) == list(LOADERS)
    assert [name for name, kind in KINDS.items() if kind.has_columns] == list(LAYOUTS)
    assert [name for name, kind in KINDS.items() if not kind.in_files] == [GENERATED]


def test_a_configuration_names_a_kind() -> None:
    assert DatasetConfig().name == GENERATED
    for name in KINDS:
        assert DatasetConfig(name=name).name == name
    with pytest.raises(ValidationError):
        DatasetConfig(name="movies")
