"""A second opinion on the columns of results.csv: each computed another way, from the files of a run or from its model.

The table in tests/README.md names for each column the test that does it, here or elsewhere.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from bench.cell.run_cell import CellRun
from bench.data.batches import largest_batch, log_popularity
from bench.records import columns
from tests.measure.tracker import Tracker
from tests.tiny import cell_of

ROOT = Path(__file__).parents[2]
BATCH, EPOCHS = 16, 3


@dataclass(frozen=True)
class Finished:
    """A cell after its last phase, in this process.

    Attributes:
        run: its state, with the model of the chosen epoch.
        record: its record.
        events: its events, each with the seconds of a clock of our own.
    """

    run: CellRun
    record: dict[str, Any]
    events: list[tuple[float, dict[str, Any]]]

    @property
    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = self.record["row"]
        return row

    @property
    def sequences(self) -> list[list[int]]:
        """Items that each user bought, oldest first."""
        return [list(map(int, sequence)) for sequence in self.run.assembly.data.catalogue.sequences]

    @property
    def steps(self) -> pd.DataFrame:
        return pd.read_csv(self.run.folder / "steps.csv")


@pytest.fixture(scope="module")
def cell(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Finished:
    events: list[tuple[float, dict[str, Any]]] = []
    chosen = cell_of("lora", model_folders, budget={"epochs": EPOCHS, "batch_size": BATCH})
    run = CellRun(chosen, tmp_path_factory.mktemp("cell"), lambda event: events.append((time.perf_counter(), event)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.cell.run_cell.plan_beside", lambda *_: None)
        return Finished(run, run.run(), events)


def ranks_by_hand(cell: Finished) -> NDArray[np.int64]:
    """Rank of the last item of every user: each item encoded alone, each score compared with that of the target."""
    assembly = cell.run.assembly
    model = assembly.model.eval()
    ranks = []
    with torch.no_grad():
        alone = [model.item_encoder(assembly.feed.gather(np.array([i]))) for i in range(assembly.data.n_items)]
        vectors = torch.cat(alone)
        for *earlier, target in cell.sequences:
            newest = earlier[-10:]
            inputs = torch.tensor([[-1] * (10 - len(newest)) + newest])
            scores = (vectors @ model.encode_users(vectors, inputs)[0]).tolist()
            others = set(range(len(scores))) - set(earlier) - {target}
            ranks.append(1 + sum(scores[item] >= scores[target] for item in others))
    return np.array(ranks)


def test_accuracy_from_the_vectors_of_the_chosen_model(cell: Finished) -> None:
    ranks = ranks_by_hand(cell)
    table = pd.read_csv(cell.run.folder / "ranks.csv")
    assert table["test_rank"].tolist() == ranks.tolist()
    assert cell.row["hr@10"] == np.mean(ranks <= 10)
    assert cell.row["ndcg@10"] == pytest.approx(sum(1 / np.log2(rank + 1) for rank in ranks if rank <= 10) / len(ranks))


def test_the_chosen_epoch_is_the_first_of_the_best(cell: Finished) -> None:
    curve = cell.record["curve"]
    assert [point["epoch"] for point in curve] == [1, 2, 3]
    best = max(point["valid_hr@10"] for point in curve)
    first = next(point for point in curve if point["valid_hr@10"] == best)
    assert cell.row["best_epoch"] == first["epoch"]
    assert (cell.row["valid_hr@10"], cell.row["valid_ndcg@10"]) == (best, first["valid_ndcg@10"])
    ranks = pd.read_csv(cell.run.folder / "ranks.csv")["valid_rank"]
    assert cell.row["valid_hr@10"] == (ranks <= 10).mean()
    assert cell.row["valid_ndcg@10"] == pytest.approx((1 / np.log2(ranks[ranks <= 10] + 1)).sum() / len(ranks))


def test_steps_and_epochs_from_the_lines_of_steps_csv(cell: Finished) -> None:
    users, lines = len(cell.sequences), len(cell.steps)
    whole, rest = divmod(users, BATCH)
    assert rest >= 2  # so that the last users are a batch, too
    assert cell.row["steps"] == lines == EPOCHS * (whole + 1)
    assert cell.row["epochs"] == lines / (whole + 1)


def test_seconds_from_the_lines_of_steps_csv(cell: Finished) -> None:
    seconds, epochs = cell.steps["seconds"].tolist(), cell.steps["epoch"].tolist()
    assert cell.row["step_seconds_median"] == pytest.approx(statistics.median(seconds))
    assert cell.row["train_seconds"] == pytest.approx(sum(seconds))
    whole = [sum(time for time, epoch in zip(seconds, epochs, strict=True) if epoch == e) for e in (1, 2, 3)]
    assert cell.row["epoch_seconds"] == pytest.approx(statistics.median(whole))


def test_set_up_by_a_clock_of_our_own(cell: Finished) -> None:
    at = {event["phase"]: seconds for seconds, event in cell.events if event["event"] == "phase"}
    whole = at["sanity checks"] - at["assemble"]
    assert 0.2 * whole < cell.row["setup_seconds"] <= whole


def test_parameters_from_the_model(cell: Finished) -> None:
    sizes = [(value.numel(), value.requires_grad) for value in cell.run.assembly.model.parameters()]
    assert cell.row["trainable_params"] == sum(size for size, trained in sizes if trained)
    assert cell.row["total_params"] == sum(size for size, _ in sizes)


def test_distinct_items_from_the_sequences(cell: Finished) -> None:
    """The batches of the first epoch as sets of items; their users come in the order of numpy's generator."""
    rows = [sequence[:-2][-11:] for sequence in cell.sequences]
    order = np.random.default_rng([cell.row["seed"], 1]).permutation(len(rows)).tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    sizes = [len({item for user in users for item in rows[user]}) for users in batches]
    assert len(set(sizes)) > 1
    assert cell.row["unique_items_per_step"] == pytest.approx(sum(sizes) / len(sizes))


def test_the_cache_from_its_files(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "cache"))
    run = CellRun(cell_of("iisan-cached", model_folders), tmp_path, lambda _: None)
    run.assemble()
    files = list((tmp_path / "cache" / "hidden").glob("*.safetensors"))
    assert len(files) == 2
    assert run.row["cache_bytes"] == sum(file.stat().st_size for file in files)
    seconds = 0.0
    for file in files:
        with safe_open(file, "numpy") as opened:
            seconds += float(opened.metadata()["seconds"])
            (name,) = opened.keys()
            assert len(opened.get_tensor(name)) == 60  # items
    assert run.row["cache_seconds"] == pytest.approx(seconds, abs=1e-5)


def test_peak_memory_by_the_tracker_of_torch(cell: Finished) -> None:
    run = cell.run
    splits = run.assembly.data.splits
    batch = largest_batch(splits, BATCH, run.cell.seed)
    moved = run.trainer.transfer(batch, run.assembly.feed.gather(batch.unique), log_popularity(splits))
    run.trainer.reset_optimizer()
    run.trainer.model.train()
    run.trainer.step(moved)
    tracker = Tracker()
    inputs = (*moved.inputs.values(), moved.items, moved.positions, moved.log_popularity)
    tracker.track_external(run.trainer.model, run.trainer.optimizer, *inputs)
    with tracker:
        run.trainer.step(moved)
    assert cell.row["peak_memory_bytes"] == tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.fixture(scope="module")
def table(finished_run: Path) -> pd.DataFrame:
    return pd.read_csv(finished_run / "results.csv")


def test_settings_from_the_matrix(finished_run: Path, table: pd.DataFrame) -> None:
    matrix = tomllib.loads((finished_run / "matrix.toml").read_text())
    (pair,), (seed,), (modality,) = matrix["backbones"], matrix["seeds"], matrix["modality"]
    assert table["method"].tolist() == [method["name"] for method in matrix["methods"]]
    same = {
        "seed": seed,
        "modality": modality,
        "text_model": pair["text"],
        "image_model": pair["image"],
        "weights": pair["weights"],
        "dataset": matrix["dataset"]["name"],
        "dataset_seed": matrix["dataset"]["seed"],
        "precision": matrix["precision"],
        "device": matrix["device"],
        "batch_size": matrix["budget"]["batch_size"],
        "run": finished_run.name,
        "status": "ok",
    }
    for column, value in same.items():
        assert table[column].tolist() == [value] * 2, column
    for column in ("budget", "training"):
        for text in table[column]:
            told = dict(part.split("=") for part in text.split("; "))
            assert told == {key: str(value) for key, value in matrix[column].items()}, column


def test_data_and_machine_from_their_files(finished_run: Path, table: pd.DataFrame) -> None:
    assert set(table["dataset_digest"]) == {json.loads((finished_run / "dataset.json").read_text())["digest"]}
    environment = json.loads((finished_run / "environment.json").read_text())
    (machine,) = set(table["machine"])
    assert environment["cpu"] in machine
    assert f"{environment['threads']} thread" in machine


def test_warnings_from_the_records(finished_run: Path, table: pd.DataFrame) -> None:
    for row in table.itertuples():
        record = json.loads((finished_run / "cells" / row.cell_id / "record.json").read_text())
        assert ("" if pd.isna(row.warnings) else row.warnings) == "; ".join(record["warnings"])


def test_tpme_by_hand(table: pd.DataFrame) -> None:
    """Of two methods, the dearer one of each cost has its whole weight."""
    costs = {"epoch_seconds": 0.45, "trainable_params": 0.10, "peak_memory_bytes": 0.45}
    for row in (0, 1):
        own, other = table.iloc[row], table.iloc[1 - row]
        assert own["tpme"] == pytest.approx(sum(weight for cost, weight in costs.items() if own[cost] > other[cost]))


def opinions() -> dict[str, str]:
    """Column -> test, from the table of the page on tests."""
    page = (ROOT / "tests/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.+`) \| `(tests/[\w/]+\.py::\w+)` \|$", page, re.MULTILINE)
    pairs = [(column, test) for cells, test in rows for column in re.findall(r"`([^`]+)`", cells)]
    assert len(pairs) == len(dict(pairs)), "a column stands twice in the table"
    return dict(pairs)


def test_every_column_has_a_second_opinion() -> None:
    assert sorted(opinions()) == sorted((*columns.RECORD, *columns.ADDED))


@pytest.mark.parametrize("test", sorted(set(opinions().values())))
def test_the_tests_of_the_table_exist(test: str) -> None:
    path, _, name = test.partition("::")
    defined = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert name in {node.name for node in defined if isinstance(node, ast.FunctionDef)}
