"""A cell from start to record, gates included, on a tiny shop with tiny encoders."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench.cell import run_cell as program
from bench.cell.assemble import assemble
from bench.cell.result import accuracy_columns
from bench.cell.run_cell import CellRun, run_cell
from bench.cell.sanity_checks import SanityCheckError, check_sanity
from bench.data.batches import epoch_batches
from bench.data.shop import world
from bench.measure.environment import capture
from bench.measure.training_meters import TrainingMeters
from bench.models.recommender import TrainBatch
from bench.records import columns
from bench.records.record import empty_row, read_record
from bench.training.loop import Evaluation, Trainer
from bench.utils.errors import UserError
from methods.registry import REGISTRY
from tests.conftest import FEW_NEW_ITEMS, CellRecord
from tests.data.tables import write_table
from tests.tiny import cell_of, matrix

pytestmark = pytest.mark.usefixtures("no_plan")


@pytest.mark.parametrize("options", [{}, {"cudnn_attention": True}])
def test_cudnns_attention_is_off_unless_a_cell_asks_for_it(
    options: dict[str, bool], model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    monkeypatch.setattr(program, "PHASES", (("look", lambda _: found.append(capture("cpu")["precision_flags"])),))
    monkeypatch.setattr(program, "record_of", lambda _: {})
    torch.backends.cuda.enable_cudnn_sdp(not options)
    training = matrix(model_folders)["training"] | options
    CellRun(cell_of("lora", model_folders, training=training), tmp_path, lambda _: None).run()
    assert [flags["cudnn_attention"] for flags in found] == [bool(options)]


def test_peaks_are_reset_between_warm_up_and_training(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the probes held is given back, the largest batch comes last, and nothing is in between reset and meters."""
    calls: list[str] = []
    steps, started = Trainer.step, TrainingMeters.__enter__
    sizes: list[int] = []

    def step(trainer: Trainer, batch: TrainBatch) -> torch.Tensor:
        calls.append("step")
        sizes.append(len(batch.log_popularity))
        return steps(trainer, batch)

    def start(meters: TrainingMeters) -> TrainingMeters:
        calls.append("meters")
        return started(meters)

    for name in ("return_unused_memory", "reset_allocator_peaks"):
        monkeypatch.setattr(program, name, lambda _, name=name: calls.append(name))
    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr(TrainingMeters, "__enter__", start)
    run = CellRun(cell_of("frozen", model_folders, seeds=[4]), tmp_path, lambda _: None)
    run.assemble()
    run.probe()
    calls.clear()
    sizes.clear()
    run.warm_up()
    run.train()
    assert calls == ["return_unused_memory", "step", "step", "reset_allocator_peaks", "meters"]
    splits = run.assembly.data.splits
    assert sizes[-1] == max(len(batch.unique) for batch in epoch_batches(splits, 16, 4, 1)) > sizes[0]


@pytest.mark.parametrize("name", REGISTRY)
def test_every_method_leaves_a_whole_record(name: str, cell_record: CellRecord) -> None:
    record, folder = cell_record(name)
    row = record["row"]
    assert row["status"] == "ok", record
    assert tuple(row) == columns.RECORD
    stored = read_record(folder)
    assert {key: value for key, value in stored.items() if key not in ("digest", "files")} == record
    assert set(stored["files"]) == {"steps.csv", "ranks.csv"}
    for column in ("hr@10", "valid_hr@10", "epoch_seconds", "trainable_params", "peak_memory_bytes", "flops_forward"):
        assert row[column] is not None
    assert row["flops_backward"] > 0
    assert row["memory_source"] == "account"
    # No GPU: what could not be measured is unknown, not zero.
    assert all(row[c] is None for c in ("nvml_process_bytes", "peak_reserved_bytes", "energy_joules", "tpme"))
    assert (row["cache_seconds"] is None) != bool(REGISTRY[name].preset.get("cached"))
    steps = pd.read_csv(folder / "steps.csv")
    assert list(steps["step"]) == [1, 2, 3, 4, 5, 6]
    assert np.isclose(row["epoch_seconds"], steps.groupby("epoch")["seconds"].sum().median())
    assert np.isclose(row["train_seconds"], steps["seconds"].sum())
    ranks = pd.read_csv(folder / "ranks.csv")
    assert tuple(ranks.columns) == columns.RANKS
    assert ranks["user"].is_unique
    assert len(ranks) == 40
    assert row["hr@10"] == np.mean(ranks["test_rank"] <= 10)
    assert row["valid_hr@10"] == np.mean(ranks["valid_rank"] <= 10)
    for column, rank in (("ndcg@10", ranks["test_rank"]), ("valid_ndcg@10", ranks["valid_rank"])):
        assert np.isclose(row[column], np.where(rank <= 10, 1 / np.log2(rank + 1), 0).mean())
    assert {key: record["plan"][key] for key in ("peak_memory_bytes", "flops_forward", "trainable_params")} == {
        key: row[key] for key in ("peak_memory_bytes", "flops_forward", "trainable_params")
    }
    assert [point["epoch"] for point in record["curve"]] == [1, 2]
    assert list(record["attributes"]) == ["category", "material", "purpose", "brand", "colour", "pattern"]
    for probed in record["attributes"].values():
        assert 0 <= probed["chance"] < 0.4
        assert 0 < probed["accuracy"] <= 1
        assert 0.9 * FEW_NEW_ITEMS < probed["n"] <= FEW_NEW_ITEMS
    assert row["valid_hr@10"] == max(point["valid_hr@10"] for point in record["curve"])


def test_the_curve_keeps_what_a_method_tells_of_itself(
    model_folders: dict[str, Path], tmp_path: Path, cell_record: CellRecord
) -> None:
    cell = cell_of("iisan-cached", model_folders, methods=[{"name": "iisan-cached", "lr": 0.05}])
    first, second = (point["observed"] for point in run_cell(cell, tmp_path / "iisan", lambda _: None)["curve"])
    assert {len(values) for told in (first, second) for values in told.values()} == {3}  # every second of 4 layers
    gates = "inter-modal: image (1) or text (0)"
    assert all(0 < g < 1 and g != 0.5 for g in first[gates])
    assert first[gates] != second[gates]
    record, _ = cell_record("frozen")
    assert [point["observed"] for point in record["curve"]] == [{}, {}]


def test_all_methods_train_on_the_same_batches(
    model_folders: dict[str, Path], tmp_path: Path, cell_record: CellRecord
) -> None:
    digests = {}
    for name in ("lora", "frozen", "iisan-cached"):
        record, _ = cell_record(name)
        digests[name] = (record["batch_digest"], record["row"]["unique_items_per_step"], record["row"]["steps"])
    assert len(set(digests.values())) == 1
    other = run_cell(cell_of("frozen", model_folders, seeds=[1]), tmp_path / "other", lambda _: None)
    assert other["batch_digest"] != digests["frozen"][0]


def test_cached_iisan_trains_as_uncached_does(model_folders: dict[str, Path], tmp_path: Path) -> None:
    changes = {"training": {"width": 16, "cache_dtype": "float32", "lr_warmup_steps": 1, "dropout": 0.1}}
    live = run_cell(cell_of("iisan", model_folders, **changes), tmp_path / "live", lambda _: None)
    cached = run_cell(cell_of("iisan-cached", model_folders, **changes), tmp_path / "cached", lambda _: None)
    for a, b in zip(live["curve"], cached["curve"], strict=True):
        assert np.isclose(a["loss"], b["loss"], atol=1e-5)
        assert a["valid_hr@10"] == b["valid_hr@10"]
    assert live["row"]["hr@10"] == cached["row"]["hr@10"]
    for name, probed in live["attributes"].items():
        assert probed["accuracy"] == pytest.approx(cached["attributes"][name]["accuracy"], abs=0.01)
    assert cached["row"]["total_params"] < live["row"]["total_params"]


def test_same_seed_same_numbers(model_folders: dict[str, Path], tmp_path: Path, cell_record: CellRecord) -> None:
    first, second = cell_record("lora")[0], run_cell(cell_of("lora", model_folders), tmp_path, lambda _: None)
    for column in ("hr@10", "ndcg@10", "valid_hr@10", "peak_memory_bytes", "flops_forward", "flops_backward"):
        assert first["row"][column] == second["row"][column]
    assert [p["loss"] for p in first["curve"]] == [p["loss"] for p in second["curve"]]


@pytest.mark.parametrize("budget", [{"steps": 2}, {"seconds": 0.05}])
def test_other_budgets(budget: dict[str, Any], model_folders: dict[str, Path], tmp_path: Path) -> None:
    cell = cell_of("frozen", model_folders, budget={**budget, "batch_size": 16})
    record = run_cell(cell, tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok"
    if "steps" in budget:
        assert record["row"]["steps"] == 2
        assert any("extrapolated" in warning for warning in record["warnings"])
    else:
        steps = pd.read_csv(tmp_path / "steps.csv")["seconds"].cumsum()
        assert steps.iloc[-1] >= 0.05
        assert len(steps) == 1 or steps.iloc[-2] < 0.05


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("name", ["lora", "iisan-cached"])
def test_one_modality(name: str, modality: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    record = run_cell(cell_of(name, model_folders, modality=[modality]), tmp_path, lambda _: None)
    assert record["row"]["status"] == "ok"
    assert set(record["method"]["adapted"]) == {modality}
    other = "image_model" if modality == "text" else "text_model"
    assert record["row"][other] is None


def test_a_failing_cell_becomes_a_row(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Options that do not fit the backbones are found before a run; a cell that is started all the same says it too."""
    cell = cell_of("iisan", model_folders)
    options = {**cell.method.options, "layers": (0, 9)}
    broken = dataclasses.replace(cell, method=dataclasses.replace(cell.method, options=options))
    record = run_cell(broken, tmp_path, lambda _: None)
    assert record["row"]["status"] == "failed"
    assert "has the layers 0 to 4, got [0, 9]" in record["row"]["error"]
    assert record["row"]["hr@10"] is None
    assert json.loads((tmp_path / "record.json").read_text())["row"]["status"] == "failed"


def test_a_loss_that_explodes_is_named(model_folders: dict[str, Path], tmp_path: Path) -> None:
    cell = cell_of("fft", model_folders)
    options = {"lr_head": 1e30, "lr_text": 1e30, "lr_image": 1e30}
    record = run_cell(
        dataclasses.replace(cell, method=dataclasses.replace(cell.method, options=options)), tmp_path, lambda _: None
    )
    assert record["row"]["status"] in ("failed", "diverged")
    assert "sanity check loss_" in record["row"]["error"] or "loss is" in record["row"]["error"]


class TestGates:
    """Each gate stops what it is there to stop."""

    @pytest.fixture
    def parts(self, model_folders: dict[str, Path]) -> dict[str, Any]:
        from bench.data.batches import log_popularity, make_batch

        cell = cell_of("lora", model_folders)
        assembly = assemble(cell, torch.device("cpu"))
        trainer = Trainer(assembly.model, assembly.groups, cell.training, "fp32", torch.device("cpu"))
        batch = make_batch(assembly.data.splits.train[:8])
        moved = trainer.transfer(batch, assembly.feed.gather(batch.unique), log_popularity(assembly.data.splits))
        return {"assembly": assembly, "trainer": trainer, "batch": moved}

    def check(self, parts: dict[str, Any], **changes: Any) -> None:
        a, t = parts["assembly"], parts["trainer"]
        arguments = {"step": t.step, "declared": t.parameters, "adapted": a.adapted} | changes
        check_sanity(a.model, batch=parts["batch"], **arguments)

    def test_pass(self, parts: dict[str, Any]) -> None:
        self.check(parts)

    def test_nothing_adapted(self, parts: dict[str, Any]) -> None:
        with pytest.raises(SanityCheckError, match="adapted_modules: no module of the image"):
            self.check(parts, adapted={"text": 4, "image": 0})

    def test_frozen_gets_gradient(self, parts: dict[str, Any]) -> None:
        next(parts["assembly"].encoders[0].model.parameters()).requires_grad_(True)
        with pytest.raises(SanityCheckError, match="frozen_without_gradient"):
            self.check(parts)

    def test_frozen_changes(self, parts: dict[str, Any]) -> None:
        frozen = next(p for p in parts["assembly"].encoders[0].model.parameters() if not p.requires_grad)

        def step(batch: Any) -> torch.Tensor:
            frozen.data.add_(0.1)
            return parts["trainer"].step(batch)

        with pytest.raises(SanityCheckError, match="frozen_untouched"):
            self.check(parts, step=step)

    def test_declared_does_not_change(self, parts: dict[str, Any]) -> None:
        idle = torch.nn.Parameter(torch.ones(3))
        with pytest.raises(SanityCheckError, match="trained_changes"):
            self.check(parts, declared=[*parts["trainer"].parameters, idle])

    def test_loss_does_not_fall(self, parts: dict[str, Any]) -> None:
        def climb(batch: Any) -> torch.Tensor:
            loss = parts["trainer"].forward(batch)
            (-loss).backward()
            parts["trainer"].update()
            return loss.detach()

        with pytest.raises(SanityCheckError, match="loss_decreases"):
            self.check(parts, step=climb)

    def test_vectors_all_alike(self, parts: dict[str, Any]) -> None:
        fuse = parts["assembly"].model.item_encoder.head.fuse
        with torch.no_grad():
            fuse.weight.zero_()
        with pytest.raises(SanityCheckError, match="item_vectors_differ"):
            self.check(parts)


def test_poolings_have_caches_and_names_of_their_own(model_folders: dict[str, Path]) -> None:
    pair = {"text": str(model_folders["bert"]), "image": str(model_folders["vit"])}
    states, rows = [], []
    for pooling in ("cls", "mean"):
        cell = cell_of("iisan-cached", model_folders, backbones=[{**pair, "text_pooling": pooling}])
        assembly = assemble(cell, torch.device("cpu"))
        states.append({m: np.asarray(cache.states) for m, cache in assembly.caches.items()})
        rows.append(empty_row(cell))
    assert not np.array_equal(states[0]["text"], states[1]["text"])
    assert np.array_equal(states[0]["image"], states[1]["image"])
    # Tables group by these columns: two poolings are two encoders.
    assert [row["text_model"] for row in rows] == [f"{pair['text']} (cls)", f"{pair['text']} (mean)"]
    assert {row["image_model"] for row in rows} == {pair["image"]}


def test_a_split_in_time_reaches_the_record(model_folders: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{i}", int(t))
        for u in range(40)
        for i, t in zip(rng.permutation(30)[:8], np.sort(rng.integers(0, 100, 8)), strict=True)
    ]
    words = world.vocabulary()
    write_table(tmp_path / "data", {f"i{i}": " ".join(rng.choice(words, 4)) for i in range(30)}, rows)
    dataset = {"name": "table", "data_dir": str(tmp_path / "data"), "split": "temporal"}
    dataset |= {"valid_from": 60, "test_from": 80}
    cell = cell_of("frozen", model_folders, dataset=dataset, modality="text")
    row = run_cell(cell, tmp_path / "cell", lambda _: None)["row"]
    assert row["status"] == "ok", row["error"]
    times: dict[str, list[int]] = {}
    for user, _, time in rows:
        times.setdefault(user, []).append(time)
    valid = {user for user, own in times.items() if min(own) < 60 and any(60 <= time < 80 for time in own)}
    test = {user for user, own in times.items() if min(own) < 80 <= max(own)}
    ranks = pd.read_csv(tmp_path / "cell" / "ranks.csv")
    assert set(ranks["user"][ranks["valid_rank"].notna()]) == valid != set(times)
    assert set(ranks["user"][ranks["test_rank"].notna()]) == test != set(times)
    assert row["hr@10"] == np.mean(ranks["test_rank"].dropna() <= 10)
    assert row["valid_hr@10"] == np.mean(ranks["valid_rank"].dropna() <= 10)


def test_warm_and_cold_targets_against_the_rows_of_the_data(model_folders: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    bought = {f"u{u}": [f"i{i}" for i in rng.permutation(60)[: rng.integers(5, 9)]] for u in range(30)}
    rows = [(user, item, n) for user, items in bought.items() for n, item in enumerate(items)]
    words = world.vocabulary()[5:]
    write_table(tmp_path / "data", {f"i{i}": " ".join(rng.choice(words, 4)) for i in range(60)}, rows)
    dataset = {"name": "table", "data_dir": str(tmp_path / "data")}
    cell = cell_of("frozen", model_folders, dataset=dataset, modality="text", budget={"steps": 2, "batch_size": 16})
    row = run_cell(cell, tmp_path / "cell", lambda _: None)["row"]
    assert row["status"] == "ok", row["error"]
    trained = {item for items in bought.values() for item in items[:-2]}
    ranks = pd.read_csv(tmp_path / "cell" / "ranks.csv").set_index("user")["test_rank"]
    gains = {
        "hr@10": (ranks <= 10).astype(float),
        "ndcg@10": pd.Series(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0.0), ranks.index),
    }
    for part, seen in (("warm", True), ("cold", False)):
        users = [user for user, items in bought.items() if (items[-1] in trained) == seen]
        assert row[f"{part}_targets"] == len(users) > 0
        for metric, gain in gains.items():
            assert row[f"{part}_{metric}"] == pytest.approx(gain[users].mean())


def test_without_cold_targets_their_accuracy_is_unknown() -> None:
    chosen = Evaluation(1, 1, 1.0, 1.0, 0.5, 0.5)
    known = accuracy_columns(chosen, np.array([1, 11]), np.array([True, True]))
    assert (known["warm_targets"], known["warm_hr@10"], known["cold_targets"]) == (2, 0.5, 0)
    assert "cold_hr@10" not in known  # and so empty in the row
    assert not any("targets" in column for column in accuracy_columns(chosen, None, np.array([True, True])))


def test_attributes_are_probed_where_they_are_known_and_accuracy_counts(
    model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = cell_of("iisan-cached", model_folders, budget={"steps": 2, "batch_size": 16})
    pair = dataclasses.replace(cell.backbones, weights="random")
    for place, other in enumerate((dataclasses.replace(cell, test=False), dataclasses.replace(cell, backbones=pair))):
        record = run_cell(other, tmp_path / str(place), lambda _: None)
        assert (record["row"]["status"], record["attributes"]) == ("ok", None)

    def full(*_: object) -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr("bench.cell.run_cell.load_new_items", full)
    record = run_cell(cell, tmp_path / "full", lambda _: None)
    assert (record["row"]["status"], record["attributes"]) == ("ok", None)
    assert "attributes were not probed: the disk is full" in record["warnings"]
