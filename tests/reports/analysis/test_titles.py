"""Tests of the titles of comparisons that differ in their data or in the folder of a model."""

from __future__ import annotations

import pytest

from bench.records.columns import GROUP
from reports.analysis.titles import differing, of_runs, titles


def key(**columns: object) -> tuple[object, ...]:
    usual = {"dataset": "amazon", "modality": "text", "text_model": "bert", "image_model": None, "dataset_seed": None}
    return tuple({**usual, **columns}.get(column) for column in GROUP)


def test_data_are_called_by_their_folder_where_that_says_which() -> None:
    two = [key(dataset_digest="0123456789"), key(dataset_digest="fedcba9876")]
    assert titles(two, ["office", "toys"]) == ["amazon · text · bert · data office", "amazon · text · bert · data toys"]
    by_digest = ["amazon · text · bert · data 01234567", "amazon · text · bert · data fedcba98"]
    assert titles(two, ["office", "office"]) == by_digest
    assert titles(two, ["office", None]) == by_digest
    assert titles(two[:1], ["office"]) == ["amazon · text · bert"]


def test_the_seed_of_a_shop_says_which_data_it_is() -> None:
    two = [key(dataset="shop", dataset_seed=n, dataset_digest=str(n) * 8) for n in (1, 2)]
    assert titles(two, [None, None]) == [f"shop · text · bert · dataset seed {n}" for n in (1, 2)]
    changed = [two[0], key(dataset="shop", dataset_seed=1, dataset_digest="99999999")]  # another generator
    assert titles(changed, [None, None]) == [f"shop · text · bert · data {d}" for d in ("11111111", "99999999")]


def test_paths_of_models_are_shortened_if_they_stay_unique() -> None:
    assert titles([key(text_model="/srv/models/hub/MiniLM/model")], [None]) == ["amazon · text · MiniLM/model"]
    two = [key(text_model=f"/srv/{name}/MiniLM/model") for name in "ab"]
    assert titles(two, [None, None]) == [f"amazon · text · /srv/{name}/MiniLM/model" for name in "ab"]
    assert titles([key(text_model="google-bert/bert-base")], [None]) == ["amazon · text · google-bert/bert-base"]


def test_parts_shared_by_all_titles_are_left_out() -> None:
    assert differing(["shop · text · a", "shop · text · b"]) == ["a", "b"]
    assert differing(["shop · text", "shop · text · b"]) == ["shop · text", "b"]


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (["a-x", "a-y", "a-x"], "a-x, a-y"),
        ([f"paper-shop-{n}" for n in range(6)], "paper-shop (6 runs)"),
        (["paper-office", "paper-office2", "paper-toys", "paper-arts"], "paper (4 runs)"),
        (["one", "two", "three", "four"], "one and 3 others"),
    ],
)
def test_many_runs_have_a_short_name(names: list[str], called: str) -> None:
    assert of_runs(names) == called
