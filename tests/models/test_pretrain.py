"""Pretraining: what the absent pair is not taught, and that the script leaves a folder that loads."""

import json
from pathlib import Path

import pytest
import torch

from bench.data.shop import world
from bench.models.backbones import BUILTIN_DIR, load_model, locate
from bench.models.pretrain import build as pretrain


def purposes(titles: list[str]) -> list[int]:
    lookup = {word: i for i, words in enumerate(world.PURPOSES) for word in words}
    return [next(lookup[w] for w in title.split() if w in lookup) for title in titles]


def materials(titles: list[str]) -> list[int]:
    lookup = {word: i for i, words in enumerate(world.MATERIALS) for word in words}
    return [next(lookup[w] for w in title.split() if w in lookup) for title in titles]


def test_absent_pairs_agree_on_everything_but_the_purpose() -> None:
    left, right = pretrain.title_pairs(world.stream(0, "a"), teach_purpose=False)
    assert materials(left) == materials(right)
    same = sum(a == b for a, b in zip(purposes(left), purposes(right), strict=True))
    assert same < 30  # 128 / 12 by chance
    left, right = pretrain.title_pairs(world.stream(0, "a"), teach_purpose=True)
    assert purposes(left) == purposes(right)


@pytest.mark.parametrize("name", ["text-absent", "image-full"])
def test_the_script_leaves_a_folder_that_loads(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrain, "N_DRAWINGS", 200)
    monkeypatch.setattr(pretrain, "BATCH", 8)
    monkeypatch.setattr(pretrain, "probes", lambda *_: {})
    threads = torch.get_num_threads()
    pretrain.build(name, tmp_path / name, steps=2)
    torch.set_num_threads(threads)
    model = load_model(locate(str(tmp_path / name), name.partition("-")[0]))  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) > 500_000
    pretrain.record_digests(tmp_path)
    assert list(json.loads((tmp_path / "digests.json").read_text())) == [name]


def test_recorded_probes_show_what_was_taught() -> None:
    last = {
        folder.name: {k: v[-1] for k, v in json.loads((folder / "pretraining.json").read_text())["probes"].items()}
        for folder in BUILTIN_DIR.iterdir()
        if folder.is_dir()
    }
    assert last["text-absent"]["purpose"] < 0.2 < 0.9 < last["text-full"]["purpose"]
    assert last["image-absent"]["pattern"] < 0.3 < 0.9 < last["image-full"]["pattern"]
    for name in ("text-absent", "text-full"):
        assert min(last[name]["category"], last[name]["material"]) > 0.95
    for name in ("image-absent", "image-full"):
        assert min(last[name]["category"], last[name]["colour"]) > 0.95
