"""The facts about a dataset, against counting them by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.commands.data.dataset_check import examine
from bench.data.baselines import popularity_ranks, random_floor, rank_scores
from bench.data.config import DatasetConfig
from bench.data.datasets import split_catalogue
from bench.data.readers.table_dataset import load_files
from bench.data.splits import PAD
from bench.utils.errors import UserError
from tests.data.tables import TITLES, write_csv, write_table

USERS = {
    "a": ["B0", "B1", "B2", "B3", "B4"],
    "b": ["B0", "B1", "B2", "B3", "B4"],
    "c": ["B0", "B0", "B0", "B1", "B9"],
    "d": ["B1", "B0", "B1", "B5", "B0", "B2"],
    "e": [f"B{n}" for n in range(10, 17)],
}
ROWS = [(user, item, n) for user, items in USERS.items() for n, item in enumerate(items)]


@pytest.fixture
def config(tmp_path: Path) -> DatasetConfig:
    write_table(tmp_path, {item: f"Thing {item}" for item in TITLES}, ROWS)
    return DatasetConfig(name="table", data_dir=str(tmp_path))


def test_facts_by_hand(config: DatasetConfig) -> None:
    facts = examine(config).facts
    assert (facts["users"], facts["items"], facts["interactions"], facts["train_interactions"]) == (5, 14, 28, 18)
    assert facts["lengths"] == {"min": 5, "lower_quartile": 5, "median": 5, "upper_quartile": 6, "max": 7}
    assert facts["title_words"]["median"] == 2
    assert facts["duplicates"] == {
        "interactions_repeating_an_item_of_the_user": 4,
        "interactions_repeating_the_one_before": 2,
        "users_with_the_sequence_of_another": 1,
        "items_with_the_title_of_another": 0,
    }
    # Trained: a and b 0 1 2, c 0 0 0, d 1 0 1 5, e 10 to 14. Validated: 3 3 1 0 15. Tested: 4 4 9 2 16.
    assert facts["cold"]["test"] == {"targets": 5, "never_trained": 4, "share": 0.8}
    assert facts["cold"]["valid"]["never_trained"] == 3
    assert facts["popularity"] == {"top_1_percent": 6 / 18, "top_10_percent": 6 / 18}
    assert facts["images"] is None
    assert facts["dropped"] == {"items in no sequence that is left": len(TITLES) - 14}
    assert facts["split"] == {"kind": "leave-one-out", "train_users": 5, "valid_users": 5, "test_users": 5}
    assert any("80% of the test targets are never seen" in warning for warning in facts["warnings"])


def test_floors_of_warm_and_cold_targets_by_hand(config: DatasetConfig) -> None:
    """Of five test targets training has seen that of d alone; the ranks by popularity are 10, 10, 12, 1 and 8.

    Without their histories, 10, 10, 12, 11 and 8 of the 14 items are left to choose from.
    """
    floors = examine(config).facts["references"]
    known, random = floors["popularity"], floors["random"]
    assert (known["warm_hr@10"], known["warm_ndcg@10"], known["cold_hr@10"]) == (1, 1, 3 / 4)
    assert known["cold_ndcg@10"] == pytest.approx((2 / np.log2(11) + 1 / np.log2(9)) / 4)
    assert random["warm_hr@10"] == pytest.approx(10 / 11)
    assert random["cold_hr@10"] == pytest.approx((1 + 1 + 10 / 12 + 1) / 4)


def test_popularity_ranks_against_a_table_of_scores(config: DatasetConfig) -> None:
    rng = np.random.default_rng(0)
    folder = Path(str(config.data_dir))
    rows = [(f"u{u}", f"B{i}", n) for u in range(60) for n, i in enumerate(rng.zipf(1.5, rng.integers(5, 20)) % 30)]
    catalogue = load_files(write_table(folder / "more", TITLES, rows), None)
    splits = split_catalogue(catalogue)
    scores = np.tile(splits.popularity.astype(np.float64), (60, 1))
    expected = rank_scores(scores, splits.test_target, splits.test_history)
    assert popularity_ranks(splits).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 5


def test_pictures(config: DatasetConfig) -> None:
    folder = Path(str(config.data_dir)) / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for item in ("B0", "B1", "B2"):
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(folder / f"{item}.jpg")
    (folder / "B3.jpg").write_bytes((folder / "B2.jpg").read_bytes())
    (folder / "B4.jpg").write_bytes(b"no picture")
    images = examine(config).facts["images"]
    assert (images["items_with_an_image"], images["share"]) == (5, 5 / 14)
    assert (images["opened"], images["unreadable"]) == (5, 1)
    assert (images["alike"]["compared"], images["alike"]["items"], images["alike"]["groups"]) == (4, 2, 1)
    assert sorted(images["alike"]["largest"][0]["such_as"]) == ["B2.jpg", "B3.jpg"]
    assert images["first_missing"] == str(folder / "B5.jpg")


def test_what_becomes_of_items_without_a_picture(config: DatasetConfig) -> None:
    folder = Path(str(config.data_dir)) / "images"
    folder.mkdir()
    used = [item for items in USERS.values() for item in items]
    for item in {*used} - {"B9"}:
        Image.new("RGB", (9, 9), (int(item[1:]), 0, 0)).save(folder / f"{item}.jpg")
    plain = examine(config).facts
    assert any("7.1% of the items have no image, the first " in warning for warning in plain["warnings"])
    dropped = examine(dataclasses.replace(config, missing_images="drop-item")).facts
    assert (dropped["users"], dropped["items"]) == (4, 13)  # without B9 too little is left of c
    assert dropped["dropped"]["items without an image file"] == 1
    assert dropped["images"]["share"] == 1
    kept = examine(dataclasses.replace(config, missing_images="mean-image")).facts
    assert (kept["users"], kept["items"]) == (5, 14)
    assert not any("no image" in warning for warning in (*dropped["warnings"], *kept["warnings"]))
    (folder / "B0.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"B0\.jpg: .*--bad-images"):
        examine(dataclasses.replace(config, missing_images="drop-item"))


def test_near_duplicate_titles_are_named_by_their_items(config: DatasetConfig) -> None:
    words = "a rather long title of a thing that is sold twice"
    folder = Path(str(config.data_dir))
    write_table(folder, {item: words if item in ("B0", "B1") else f"Thing {item}" for item in TITLES}, ROWS)
    [group] = examine(config).facts["alike_titles"]["largest"]
    assert sorted(group["such_as"]) == [f"{item}: {words}" for item in ("B0", "B1")]


def test_ids_that_are_no_file_names_are_fine_without_pictures(tmp_path: Path) -> None:
    titles = {f"x/{n}": "t" for n in range(12)}
    write_table(tmp_path, titles, [("u", item, n) for n, item in enumerate(titles)])
    assert examine(DatasetConfig(name="table", data_dir=str(tmp_path))).facts["items"] == 12


def test_a_split_in_time_is_in_the_facts(config: DatasetConfig) -> None:
    folder = Path(str(config.data_dir))
    write_csv(folder / "interactions.csv", ["user", "item", "timestamp"], ROWS)
    in_time = DatasetConfig(name="table", data_dir=str(folder), split="temporal", valid_from="3", test_from="5")
    assert examine(in_time).facts["split"] == {
        "kind": "temporal",
        "valid_from": "3",
        "test_from": "5",
        "train_users": 5,
        "valid_users": 5,
        "test_users": 2,
    }


def test_random_floor_against_drawing() -> None:
    """Twelve items, histories with repeats: fewer candidates than twelve minus twelve columns would say."""
    history = np.array([[PAD] * 9 + [1, 1, 2], [0, 1, 2, 3, 4, 4, 4, 4, 4, 5, 5, 6]], dtype=np.int32)
    exact = random_floor(12, history)
    rng = np.random.default_rng(0)
    candidates = [12 - 2, 12 - 7]
    ranks = np.concatenate([rng.integers(1, count + 1, 200_000) for count in candidates])
    assert exact["hr@10"] == (ranks <= 10).mean() == 1
    assert exact["ndcg@10"] == pytest.approx((1 / np.log2(ranks + 1)).mean(), abs=2e-3)
