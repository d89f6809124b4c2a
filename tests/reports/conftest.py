"""Fixtures: reports that several tests read, each made once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reports.build import build
from tests.conftest import Once
from tests.reports.factory import dataset, make_run, write_json
from tests.reports.pages import Large, page_from


@pytest.fixture(scope="session")
def built(once: Once) -> Path:
    """A run with its report, in which the order of methods depends on the weights of the TPME."""
    changes = {
        "adapter": {"epoch_seconds": 1.7, "trainable_params": 950_000},
        "prefix": {"peak_memory_bytes": 20 * 2**20},
        "bitfit": {"trainable_params": 9_000},
    }

    def fill(folder: Path) -> None:
        run = make_run(folder / "run", seeds=[0, 1], changes=changes, ranks=True)
        build([run], run)

    return once("built", fill) / "run"


@pytest.fixture(scope="session")
def plain_report(once: Once) -> Path:
    """A run of eight methods and two seeds with its report."""

    def fill(folder: Path) -> None:
        run = make_run(folder / "run")
        build([run], run)

    return once("plain", fill) / "run"


@pytest.fixture(scope="session")
def large(once: Once) -> Large:
    """The page of 400 records: ten datasets, five pairs of backbones, eight methods, one seed."""

    def fill(folder: Path) -> None:
        runs = []
        for place in range(50):
            name = {"dataset": f"data{place // 5}", "text_model": f"text-{place % 5}"}
            runs.append(make_run(folder / f"run{place}", seeds=[0], **name))
            write_json(runs[-1] / "dataset.json", {**dataset(), "digest": str(place)})
        started = time.process_time()
        (folder / "page.html").write_text(page_from(runs), encoding="utf-8")
        (folder / "seconds").write_text(str(time.process_time() - started))

    folder = once("large", fill)
    return Large((folder / "page.html").read_text(encoding="utf-8"), float((folder / "seconds").read_text()))
