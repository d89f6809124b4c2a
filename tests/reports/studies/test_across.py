"""Tests of studies across comparisons: their axes, and the same style for a method in all figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.analysis.comparison import Comparison, split_into_comparisons
from reports.analysis.tables import results, summary
from reports.figures.style import Styles, styles_of
from reports.load.run_folders import Run, load_run, merge
from reports.studies.all_studies import studies
from reports.studies.study import Study
from tests.reports.factory import dataset, make_run, write_json


def compared(runs: Sequence[Run]) -> list[Comparison]:
    records, _ = merge(runs)
    cells = results(records)
    return split_into_comparisons(runs, records, cells, summary(cells))


def found(runs: Sequence[Run], styles: Styles) -> Mapping[str, Study]:
    return {study.title: study for study in studies(compared(runs), styles)}


def svg(study: Study) -> str:
    [drawing] = study.drawings
    assert drawing.svg is not None
    return drawing.svg.decode()


def pairs(folder: Path, **changes: Any) -> list[Run]:
    return [
        load_run(make_run(folder / name, ["frozen", "lora"], [0], text_model=name, **(changes if name == "b" else {})))
        for name in ("a", "b")
    ]


def test_encoders_stand_at_their_sizes_where_these_differ(tmp_path: Path) -> None:
    styles = styles_of(["frozen", "lora"])
    alike = svg(found(pairs(tmp_path / "alike"), styles)["Encoders"])
    assert "parameters of the encoders, millions" not in alike
    larger = svg(found(pairs(tmp_path / "larger", total_params=30_000_000), styles)["Encoders"])
    assert "parameters of the encoders, millions" in larger
    cached = {"total_params": 9_000, "trainable_params": 9_000}  # no encoder was loaded, so its size is unknown
    unknown = svg(found(pairs(tmp_path / "unknown", **cached), styles)["Encoders"])
    assert "parameters of the encoders, millions" not in unknown


def test_floor_and_ceiling_are_named(tmp_path: Path) -> None:
    runs = [
        load_run(make_run(tmp_path / modality, ["frozen"], [0], modality=modality, image_model=image))
        for modality, image in (("text", None), ("text+image", "shop-absent"))
    ]
    drawn = svg(found(runs, styles_of(["frozen"]))["One modality and both"])
    assert "popularity 0.094" in drawn
    assert "Bayes ceiling 0.509" in drawn


def test_a_method_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    taken, other = next(
        (f"m{first}", f"m{second}")
        for second in range(99)
        for first in range(second)
        if styles_of([f"m{first}", f"m{second}"])[f"m{second}"] != styles_of([f"m{second}"])[f"m{second}"]
    )
    names = [taken, other, "fft", "lora"]
    runs = []
    for place in range(5):  # one of the two has no result on the last, and is not ranked
        failed = {taken: {"status": "failed", "error": "x"}} if place == 4 else {}
        path = make_run(tmp_path / str(place), names, [0], failed, dataset=f"data{place}")
        write_json(path / "dataset.json", {**dataset(), "digest": str(place) * 8})
        runs.append(load_run(path))
    styles = styles_of(names)
    drawn = svg(found(runs, styles)["Over datasets"])
    assert styles[other].color in drawn
    assert styles_of([other])[other].color not in drawn
