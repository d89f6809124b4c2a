"""Fixtures: reports that several tests read, each made once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reports.build import build
from tests.reports.factory import dataset, make_run, write_json
from tests.reports.pages import Large, page_from


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its report, in which the order of methods depends on the weights of the TPME."""
    changes = {
        "adapter": {"epoch_seconds": 1.7, "trainable_params": 950_000},
        "prefix": {"peak_memory_bytes": 20 * 2**20},
        "bitfit": {"trainable_params": 9_000},
    }
    run = make_run(tmp_path_factory.mktemp("built") / "run", seeds=[0, 1], changes=changes, ranks=True)
    build([run], run)
    return run


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Large:
    """The page of 400 records: ten datasets, five pairs of backbones, eight methods, one seed."""
    folder = tmp_path_factory.mktemp("large")
    runs = []
    for place in range(50):
        run = make_run(folder / f"run{place}", seeds=[0], dataset=f"data{place // 5}", text_model=f"text-{place % 5}")
        write_json(run / "dataset.json", {**dataset(), "digest": str(place)})
        runs.append(run)
    started = time.process_time()
    return Large(page_from(runs), time.process_time() - started)
