"""Tests of reading ranks.csv and of the metrics computed from ranks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.records.record import write_ranks
from bench.training.evaluate import accuracy
from bench.utils.errors import UserError
from reports.analysis.options import Options
from reports.analysis.tables import results, summary
from reports.build import build
from reports.load import ranks
from reports.load.ranks import gains, load_ranks, parse_metric
from reports.load.run_folders import load_run
from tests.reports.factory import make_run


def test_records_of_cells_are_read(tmp_path: Path) -> None:
    users = ['with "quotes", and a comma', "NA", "007"]
    write_ranks(tmp_path, users, [1, 2, 3], [30, 20, 10])
    found = load_ranks(tmp_path / "ranks.csv")
    assert found is not None
    assert found.users == tuple(users)
    assert (found.valid.tolist(), found.test.tolist()) == ([1, 2, 3], [30, 20, 10])
    assert load_ranks(tmp_path / "other.csv") is None


def test_users_without_one_of_the_targets(tmp_path: Path) -> None:
    write_ranks(tmp_path, ["a", "b", "c", "d"], [1, None, 3, 4], [None, 20, 10, None])
    found = load_ranks(tmp_path / "ranks.csv")
    assert found is not None
    assert found.users == ("b", "c")
    assert (found.valid.tolist(), found.test.tolist()) == ([1, 3, 4], [20, 10])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "malformed"),
        ("user,valid_rank\na,1\n", "malformed: .*test_rank"),
        ("user,valid_rank,test_rank\n", "no user"),
        ("user,valid_rank,test_rank\na,1,2\na,1,2\n", "a user is listed twice"),
        ("user,valid_rank,test_rank\na,1,0\n", "a rank below 1"),
        ("user,valid_rank,test_rank\na,1,\n", "malformed: no user has a test target"),
        ("user,valid_rank,test_rank\na,,1\n", "malformed: .*no user has a validation target"),
        ("user,valid_rank,test_rank\na,1,1.5\n", "malformed"),
        ("user,valid_rank,test_rank\na,x,1\n", "malformed"),
    ],
)
def test_malformed_ranks_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ranks.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"ranks\.csv: .*{words}"):
        load_ranks(path)


def test_metrics_by_hand() -> None:
    found = np.array([1, 2, 5, 6, 40])
    assert gains(found, "hr", 5).tolist() == [1, 1, 1, 0, 0]
    assert gains(found, "mrr", 5) == pytest.approx([1, 1 / 2, 1 / 5, 0, 0])
    assert gains(found, "ndcg", 5) == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(6), 0, 0])
    harness = accuracy(found)
    assert gains(found, "hr", 10).mean() == pytest.approx(harness.hr)
    assert gains(found, "ndcg", 10).mean() == pytest.approx(harness.ndcg)


@pytest.mark.parametrize(
    ("text", "found"),
    [("hr@10", ("hr", 10)), ("mrr@1", ("mrr", 1)), ("hr@0", None), ("map@10", None), ("hr", None), ("hr@x", None)],
)
def test_metric_names(text: str, found: tuple[str, int] | None) -> None:
    assert parse_metric(text) == found


def test_further_metrics_are_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], ranks=True)
    frame = results(load_run(run).records, Options(ks=(1, 20)))
    for _, row in frame.iterrows():
        kept = pd.read_csv(run / "cells" / row["cell_id"] / "ranks.csv")
        assert row["hr@1"] == pytest.approx((kept["test_rank"] == 1).mean())
        assert row["valid_mrr@20"] == pytest.approx((1 / kept["valid_rank"]).where(kept["valid_rank"] <= 20, 0).mean())
    assert {"hr@20_low", "ndcg@20_high", "valid_hr@1"} <= set(summary(frame).columns)


def test_a_k_that_cannot_be_computed_is_refused(tmp_path: Path) -> None:
    bare = make_run(tmp_path / "bare", ["fft", "lora"], seeds=[0])
    with pytest.raises(UserError, match=r"--k 5,10: no cell has ranks\.csv"):
        build([bare], bare, ks=(5, 10))
    kept = make_run(tmp_path / "kept", ["fft", "lora"], seeds=[0], ranks=True)
    with pytest.raises(UserError, match=r"--k 701: the catalogue of .* has only 700 items"):
        build([kept], kept, ks=(10, 701))
    for ks in ((0,), (5, -1), ()):
        with pytest.raises(UserError, match=r"--k .*: expected whole numbers of at least 1"):
            build([kept], kept, ks=ks)
    assert not (kept / "report.md").exists()


@pytest.mark.usefixtures("no_figures")
def test_each_k_counts_once_and_they_rise(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], seeds=[0], ranks=True)
    build([run], run, ks=(20, 5, 20))
    header = next(
        line for line in (run / "report.md").read_text().splitlines() if line.startswith("| Method | Seeds |")
    )
    assert [cell.strip() for cell in header.split("|")][3:5] == ["HR@5", "HR@20"]


def test_ranks_of_a_cell_that_failed_do_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["fft", "lora"], seeds=[0], changes={"lora": {"status": "failed"}})
    folder = next((run / "cells").glob("lora--*"))
    (folder / "ranks.csv").write_text("left by an earlier start")
    assert [record.ranks for record in load_run(run).records] == [None, None]
    assert ranks.title("ndcg", 5) == "NDCG@5"
