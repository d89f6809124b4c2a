"""Digests name content, caches serve what was written and nothing else."""

import hashlib
import itertools
import pickle
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.data.cache.catalogue_store import (
    CacheError,
    array_digest,
    cached_catalogue,
    catalogue_digest,
    load_catalogue,
    npy_digest,
    save_catalogue,
)
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.utils.files import Part, atomic_path, digest_of, file_digest
from tests.data.cache.builds import make_catalogue


def same(one: Catalogue, other: Catalogue) -> bool:
    arrays = len(one.sequences) == len(other.sequences) and all(map(np.array_equal, one.sequences, other.sequences))
    if one.images is None or other.images is None:
        pictures = one.images is other.images
    else:
        pictures = np.array_equal(one.images, other.images)
    names = ("name", "digest", "item_ids", "titles", "user_ids", "dropped", "notes")
    return arrays and pictures and all(getattr(one, name) == getattr(other, name) for name in names)


# Digests


def test_digests_tell_types_and_boundaries_apart() -> None:
    parts: list[tuple[Part, ...]] = [
        (),
        ((),),
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"abc",),
        (("a", "b"), "c"),
        ("a", ("b", "c")),
        (1,),
        ("1",),
        (1.0,),
        (True,),
        (None,),
        ("None",),
        (0.1,),
        (0.30000000000000004,),
        (0.3,),
        ("\ud800",),
    ]
    digests = [digest_of(*part) for part in parts]
    assert len(set(digests)) == len(parts)
    assert digest_of("a", [1, 2]) == digest_of("a", (1, 2))
    expected = hashlib.sha256(b"sequence:2:str:2:\xc3\xa9int:1:7").hexdigest()
    assert digest_of("é", 7) == expected, "a change of the encoding would orphan every cache"


def test_a_value_without_a_digest_is_refused() -> None:
    with pytest.raises(TypeError, match="no digest of a set"):
        digest_of({1})  # type: ignore[arg-type]


def test_file_digest_is_the_sha256_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "f").write_bytes(content)
    assert file_digest(tmp_path / "f") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("shape", [(0,), (), (3, 4), (700, 2000, 3)])
def test_array_digest_is_that_of_its_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    np.save(tmp_path / "a.npy", array)
    assert array_digest(array) == npy_digest(tmp_path / "a.npy")


def test_npy_digest_refuses_what_is_not_plain(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(np.ones((3, 4))))
    with pytest.raises(ValueError, match="C order"):
        npy_digest(tmp_path / "a.npy")


def test_array_digest_sees_type_shape_and_values_but_not_layout() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    others = [array.reshape(4, 3), array.astype(np.uint32), array + np.int32(1)]
    assert len({array_digest(each) for each in [array, *others]}) == 4
    assert array_digest(np.asfortranarray(array)) == array_digest(array)
    assert array_digest(np.repeat(array, 2, axis=0)[::2]) == array_digest(array)


def test_catalogue_digest_depends_on_each_part_and_on_nothing_else() -> None:
    one = make_catalogue()
    assert one.images is not None

    def digest(**changed: object) -> str:
        names = ("item_ids", "titles", "user_ids", "sequences", "images")
        return catalogue_digest(**({name: getattr(one, name) for name in names} | changed))

    flat = np.concatenate(one.sequences)
    changed = [
        digest(titles=(*one.titles[:-1], "other")),
        digest(item_ids=("other", *one.item_ids[1:])),
        digest(user_ids=("u", "v", "x")),
        digest(sequences=one.sequences[::-1]),
        digest(sequences=tuple(np.split(flat, [6, 18]))),
        digest(images=one.images[::-1]),
        digest(images=None),
    ]
    assert len({one.digest, *changed}) == 8
    assert digest() == one.digest
    assert digest(images=array_digest(one.images)) == one.digest


# Places and writing


def test_cache_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("IISAN_BENCH_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.setenv("IISAN_BENCH_CACHE", "")
    assert cache_dir() == tmp_path / "xdg" / "iisan-bench"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache_dir() == tmp_path / "home" / ".cache" / "iisan-bench"


def test_atomic_path_writes_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "new" / "f"
    with atomic_path(target) as temporary:
        temporary.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"

    def fail_half_way() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("tw")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert [path.name for path in target.parent.iterdir()] == ["f"]
    assert target.read_text() == "one"


# Catalogues


@pytest.mark.parametrize("with_images", [True, False])
def test_what_is_saved_is_loaded(tmp_path: Path, with_images: bool) -> None:
    one = make_catalogue(with_images)
    save_catalogue(one, tmp_path / "entry")
    other = load_catalogue(tmp_path / "entry")
    assert same(one, other)
    assert other.truth is None
    assert all(sequence.dtype == np.int32 for sequence in other.sequences)
    if with_images:
        assert isinstance(other.images, np.memmap)
        assert not other.images.flags.writeable
        save_catalogue(replace(other, notes=("new",)), tmp_path / "entry")
        assert same(load_catalogue(tmp_path / "entry"), replace(one, notes=("new",)))


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    save_catalogue(make_catalogue(), tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        for position in itertools.chain(range(0, min(128, len(content))), range(128, len(content), 17)):
            path.write_bytes(content[:position] + bytes([content[position] ^ 0x21]) + content[position + 1 :])
            with pytest.raises(CacheError):
                load_catalogue(tmp_path)
        path.write_bytes(content)
    load_catalogue(tmp_path)


def test_lost_cut_and_grown_files_are_noticed(tmp_path: Path) -> None:
    save_catalogue(make_catalogue(), tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for damaged in (content[:-1], content[: len(content) // 2], b"", content + b"\0"):
            path.write_bytes(damaged)
            with pytest.raises(CacheError):
                load_catalogue(tmp_path)
        path.unlink()
        with pytest.raises(CacheError):
            load_catalogue(tmp_path)
        path.write_bytes(content)
    load_catalogue(tmp_path)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    save_catalogue(make_catalogue(), tmp_path / "entry")
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists(), "the trap works"
    mark.unlink()
    array = tmp_path / "entry" / "sequences.npy"
    before = file_digest(array)
    np.save(array, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    with pytest.raises(CacheError, match="checksum mismatch"):
        load_catalogue(tmp_path / "entry")
    table = tmp_path / "entry" / "catalogue.json"  # now with a digest that fits
    text = table.read_text().splitlines()[1].replace(before, file_digest(array))
    table.write_text(f"{digest_of(text)}\n{text}\n")
    with pytest.raises(CacheError, match="allow_pickle=False"):
        load_catalogue(tmp_path / "entry")
    assert not mark.exists()


def test_cached_catalogue_builds_once_and_again_after_damage(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    folders: list[Path] = []

    def build(folder: Path) -> Catalogue:
        folders.append(folder)
        return make_catalogue()

    first, second = cached_catalogue("key", build), cached_catalogue("key", build)
    assert same(first, second)
    assert folders == [cache / "catalogues" / "key"]
    assert not caplog.records
    (folders[0] / "images.npy").write_bytes(b"damage")
    assert same(cached_catalogue("key", build), first)
    assert len(folders) == 2
    assert "damaged cache entry" in caplog.text
    assert same(load_catalogue(folders[0]), first)
    cached_catalogue("other key", build)
    assert len(folders) == 3


def test_a_failed_build_leaves_no_entry() -> None:
    def fail(_: Path) -> Catalogue:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached_catalogue("key", fail)
    assert same(cached_catalogue("key", lambda _: make_catalogue()), make_catalogue())


def test_a_cache_that_cannot_be_written_is_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    assert same(cached_catalogue("key", lambda _: make_catalogue()), make_catalogue())
    assert "cannot be kept" in caplog.text


def test_only_one_of_several_builds() -> None:
    builds: list[int] = []

    def build(_: Path) -> Catalogue:
        builds.append(1)
        time.sleep(0.2)
        return make_catalogue()

    served: list[Catalogue] = []
    threads = [threading.Thread(target=lambda: served.append(cached_catalogue("key", build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1
    assert all(same(each, make_catalogue()) for each in served)
    assert len(served) == 4


def test_a_catalogue_of_parts_that_do_not_belong_together() -> None:
    one = make_catalogue()
    assert one.images is not None
    with pytest.raises(ValueError, match="8 titles for 9 items"):
        replace(one, titles=one.titles[1:])
    with pytest.raises(ValueError, match="2 sequences for 3 users"):
        replace(one, sequences=one.sequences[1:])
    with pytest.raises(ValueError, match="images are"):
        replace(one, images=one.images[1:])
    with pytest.raises(ValueError, match="images are"):
        replace(one, images=one.images[..., 0])
    with pytest.raises(ValueError, match="images are float32"):
        replace(one, images=one.images.astype(np.float32))
