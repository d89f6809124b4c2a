"""Tests of results.csv and summary.csv: columns, missing values, comparisons, intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.records import columns
from reports.analysis.tables import mean_interval, results, summary
from reports.load.run_folders import load_run
from tests.reports.factory import METHODS, make_run, set_machine
from tests.reports.reading import plain_tpme

CONTRACT = """cell_id, method, dataset, modality, text_model, image_model, seed, status, error, device, precision,
batch_size, epochs, steps, hr@10, ndcg@10, valid_hr@10, best_epoch, step_seconds_median, epoch_seconds,
train_seconds, setup_seconds, trainable_params, total_params, peak_memory_bytes, memory_source,
peak_allocated_bytes, peak_reserved_bytes, nvml_process_bytes, nvml_device_bytes, peak_rss_bytes,
energy_joules, flops_forward, flops_backward, tpme""".replace("\n", " ").split(", ")


def frame_of(path: Path, **arguments: Any) -> pd.DataFrame:
    return results(load_run(make_run(path, **arguments)).records)


def by_method(frame: pd.DataFrame, method: str, seed: int = 0) -> pd.Series[Any]:
    return frame[(frame["method"] == method) & (frame["seed"] == seed)].iloc[0]


CONTRACT = [
    "cell_id",
    "method",
    "dataset",
    "modality",
    "text_model",
    "image_model",
    "seed",
    "status",
    "error",
    "device",
    "precision",
    "batch_size",
    "epochs",
    "steps",
    "hr@10",
    "ndcg@10",
    "valid_hr@10",
    "best_epoch",
    "step_seconds_median",
    "epoch_seconds",
    "train_seconds",
    "setup_seconds",
    "trainable_params",
    "total_params",
    "peak_memory_bytes",
    "memory_source",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "nvml_process_bytes",
    "nvml_device_bytes",
    "peak_rss_bytes",
    "energy_joules",
    "flops_forward",
    "flops_backward",
    "tpme",
]


def test_contract_columns_keep_their_names_and_order() -> None:
    assert list(columns.RECORD[: len(CONTRACT)]) == CONTRACT


def test_columns_stand_in_the_order_of_the_contract(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run")
    assert list(frame.columns[: len(CONTRACT)]) == CONTRACT
    assert list(frame.columns[len(CONTRACT) :])[:3] == ["valid_ndcg@10", "weights", "dataset_seed"]
    assert len(frame) == 16


def test_unmeasured_is_missing_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0], changes={"lora": {"status": "oom"}})
    assert frame["energy_joules"].isna().all()
    assert frame["nvml_process_bytes"].isna().all()
    line = frame.to_csv(index=False).splitlines()[1].split(",")
    cells = dict(zip(frame.columns, line, strict=False))
    assert cells["trainable_params"] == "1290000"
    assert cells["energy_joules"] == cells["nvml_device_bytes"] == cells["error"] == ""
    failed = by_method(frame, "lora")
    assert pd.isna(failed["hr@10"])
    assert pd.isna(failed["trainable_params"])


def test_half_an_epoch_is_not_rounded(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run", methods=["fft", "lora"], seeds=[0], changes={"lora": {"epochs": 0.5}})
    assert by_method(frame, "lora")["epochs"] == 0.5


def test_columns_that_only_some_records_have_come_last_but_for_ours(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run", changes={"lora": {"rank": 8, "note": "hot", "tokens": 1.5}})
    own = [column for column in frame.columns if column not in columns.RECORD]
    assert own[:3] == ["rank", "note", "tokens"]
    assert by_method(frame, "lora")["rank"] == 8
    assert pd.isna(by_method(frame, "fft")["rank"])


def test_tpme_compares_the_methods_of_one_seed(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run")
    for seed in (0, 1):
        rows = frame[frame["seed"] == seed]
        assert dict(zip(rows["method"], rows["tpme"], strict=True)) == pytest.approx(plain_tpme(rows))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("device", "cuda:0"),
        ("modality", "text"),
        ("dataset_seed", 5),
        ("precision", "bf16"),
        ("batch_size", 64),
        ("weights", "random"),
        ("text_model", "shop-full"),
        ("dataset", "amazon"),
    ],
)
def test_tpme_never_compares_across(tmp_path: Path, column: str, value: object) -> None:
    apart = {name: {column: value} for name in ("lora", "iisan", "frozen")}
    frame = frame_of(tmp_path / "run", seeds=[0], changes=apart)
    inside = frame[frame["method"].isin(apart)]
    outside = frame[~frame["method"].isin(apart)]
    for rows in (inside, outside):
        assert dict(zip(rows["method"], rows["tpme"], strict=True)) == pytest.approx(plain_tpme(rows))


def test_two_machines_are_two_comparisons(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, seeds=[0]) for name in "ab"]
    set_machine(paths[1], "Another CPU")
    frame = results([record for path in paths for record in load_run(path).records])
    for name in "ab":
        rows = frame[frame["run"] == name]
        assert dict(zip(rows["method"], rows["tpme"], strict=True)) == pytest.approx(plain_tpme(rows))


@pytest.mark.parametrize(
    ("methods", "changes"),
    [
        (["fft"], {}),
        (["fft", "lora"], {"lora": {"status": "oom"}}),
        (["fft", "lora"], {"lora": {"peak_memory_bytes": None}}),
        (["fft", "lora"], {"lora": {"trainable_params": METHODS["fft"][2]}}),
        (["fft", "lora", "iisan"], {"lora": {"memory_source": "allocated"}}),
    ],
)
def test_tpme_is_empty_where_it_cannot_be_computed(
    tmp_path: Path, methods: list[str], changes: dict[str, dict[str, Any]]
) -> None:
    frame = frame_of(tmp_path / "run", methods=methods, changes=changes)
    assert frame["tpme"].isna().all()
    assert summary(frame)["tpme"].isna().all()


def test_a_failed_method_leaves_the_others_their_score(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run", changes={"fft": {"status": "oom"}})
    rows = frame[(frame["seed"] == 0) & (frame["method"] != "fft")]
    assert dict(zip(rows["method"], rows["tpme"], strict=True)) == pytest.approx(plain_tpme(rows))
    assert pd.isna(by_method(frame, "fft")["tpme"])


def test_a_cell_that_died_early_counts_to_the_rest_of_its_run(tmp_path: Path) -> None:
    table = summary(frame_of(tmp_path / "run", changes={"lora": {"status": "failed"}}))
    assert len(table) == len(METHODS)
    assert table["budget"].eq("epochs=3; batch_size=32").all()
    assert table["machine"].eq("Made-up CPU, 2 threads").all()


def test_summary_means_and_t_intervals(tmp_path: Path) -> None:
    frame = frame_of(tmp_path / "run", seeds=[0, 1, 2, 3])
    table = summary(frame).set_index("method")
    assert list(table.index) == list(METHODS)
    for method in METHODS:
        for column in ("hr@10", "epoch_seconds", "step_seconds_median"):
            values = frame.loc[frame["method"] == method, column].astype(float)
            low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
            found = table.loc[method, [column, f"{column}_low", f"{column}_high"]].to_numpy().tolist()
            assert found == pytest.approx([values.mean(), low, high])
    means = table.reset_index()
    assert dict(zip(means["method"], means["tpme"], strict=True)) == pytest.approx(plain_tpme(means))


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    table = summary(frame_of(tmp_path / "run", seeds=[3]))
    assert table["hr@10"].notna().all()
    assert table["hr@10_low"].isna().all()
    assert table["hr@10_high"].isna().all()
    assert (table["seeds"] == 1).all()


def test_summary_counts_how_cells_ended(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", methods=["fft", "lora"], seeds=[0, 1])
    other = make_run(tmp_path / "other", methods=["lora"], seeds=[2, 3], changes={"lora": {"status": "timeout"}})
    frame = results([*load_run(path).records, *load_run(other).records])
    table = summary(frame).set_index("method")
    assert table[["cells", "status_ok", "status_timeout", "seeds"]].to_numpy().tolist() == [[2, 2, 0, 2], [4, 2, 2, 2]]
    ok = frame[(frame["method"] == "lora") & (frame["status"] == "ok")]
    assert float(table["hr@10"]["lora"]) == pytest.approx(ok["hr@10"].mean())


def test_memory_of_two_sources_has_no_mean(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / source, ["fft", "lora"], [seed], memory_source=source)
        for seed, source in enumerate(["account", "allocated"])
    ]
    table = summary(results([record for path in paths for record in load_run(path).records]))
    assert table["peak_memory_bytes"].isna().all()
    assert table["memory_source"].isna().all()
    assert table["hr@10"].notna().all()


def test_where_nvml_fails_for_one_method_all_fall_back(tmp_path: Path) -> None:
    def on_card(process: int | None, reserved: int | None) -> dict[str, Any]:
        source = "peak_reserved_bytes" if process is None else "nvml_process_bytes"
        peaks = {"nvml_process_bytes": process, "peak_reserved_bytes": reserved}
        return {"device": "cuda:0", **peaks, "memory_source": source, "peak_memory_bytes": process or reserved}

    changes = {"fft": on_card(900, 700), "lora": on_card(None, 600), "iisan": on_card(300, 100)}
    frame = frame_of(tmp_path / "mixed", methods=list(changes), seeds=[0], changes=changes)
    assert dict(zip(frame["method"], frame["peak_memory_bytes"], strict=True)) == {
        "fft": 700,
        "lora": 600,
        "iisan": 100,
    }
    assert set(frame["memory_source"]) == {"peak_reserved_bytes"}
    assert list(frame["nvml_process_bytes"].dropna()) == [900, 300], "the figures themselves stay"
    assert dict(zip(frame["method"], frame["tpme"], strict=True)) == pytest.approx(plain_tpme(frame))
    assert set(summary(frame)["memory_source"]) == {"peak_reserved_bytes"}

    changes["lora"] = on_card(750, 600)
    whole = frame_of(tmp_path / "whole", methods=list(changes), seeds=[0], changes=changes)
    assert list(whole["peak_memory_bytes"]) == [900, 750, 300]
    changes |= {"lora": on_card(None, 600), "fft": on_card(900, None)}
    lost = frame_of(tmp_path / "lost", methods=list(changes), seeds=[0], changes=changes)
    assert lost["tpme"].isna().all(), "no source serves all"


def test_interval_of_nothing_and_of_one() -> None:
    assert mean_interval(np.array([])) == (None, None, None)
    assert mean_interval(np.array([2.0])) == (2.0, None, None)
