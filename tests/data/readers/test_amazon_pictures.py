"""Pictures of an Amazon catalogue: their order, the cache, and what is done about those that are not there."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.data.readers.amazon import load_amazon
from bench.data.readers.images import ImagePolicy, Policies, decode_image
from bench.utils.errors import UserError
from tests.data.small_amazon import ITEMS, TITLES, USERS, replaced, write_amazon


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_amazon(tmp_path / "data", TITLES, USERS)


def picture(folder: Path, item: str, level: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{item}.jpg"
    Image.new("RGB", (6, 9), (level,) * 3).save(path)
    return path


@pytest.fixture
def pictures(folder: Path) -> Path:
    """One grey picture per item, lighter with its number."""
    for number, item in enumerate(ITEMS):
        picture(folder / "images", item, 10 * number)
    return folder / "images"


# Pictures


def test_pictures_come_in_the_order_of_the_items(folder: Path, pictures: Path) -> None:
    catalogue = load_amazon(folder, image_size=4, needs_images=True)
    assert catalogue.images is not None
    assert catalogue.images.shape == (14, 4, 4, 3)
    for row, item in enumerate(catalogue.item_ids):
        assert np.array_equal(catalogue.images[row], decode_image(pictures / f"{item}.jpg", 4))
    assert load_amazon(folder, needs_images=False).digest != catalogue.digest


def test_pictures_are_decoded_once(folder: Path, pictures: Path) -> None:
    told: list[int] = []

    def load(size: int = 4, policy: ImagePolicy = "fail") -> str:
        told.clear()
        return load_amazon(
            folder, None, size, Policies(policy, policy), needs_images=True, progress=lambda done, _: told.append(done)
        ).digest

    first = load()
    assert len(told) == 14
    assert load() == first
    assert not told, "served from the cache"
    assert load(size=5) != first
    assert load(policy="drop-item") == first, "with nothing to drop the content is the same"
    mark = (pictures / "B005.jpg").stat()
    picture(pictures, "B005", 255)
    os.utime(pictures / "B005.jpg", ns=(mark.st_atime_ns, mark.st_mtime_ns))
    assert load() != first, "a picture exchanged without a trace in its modification time"


def test_pictures_from_another_folder(folder: Path, pictures: Path, tmp_path: Path) -> None:
    first = load_amazon(folder, image_size=4, needs_images=True)
    pictures.rename(tmp_path / "elsewhere")
    assert load_amazon(folder, tmp_path / "elsewhere", 4, needs_images=True).digest == first.digest
    with pytest.raises(UserError, match=r"images: no such folder of images: .* --image-dir, .* --modality text"):
        load_amazon(folder, image_size=4, needs_images=True)


def test_absent_pictures_fail_unless_a_policy_is_chosen(folder: Path, pictures: Path) -> None:
    (pictures / "B004.jpg").unlink()
    (pictures / "B009.jpg").write_bytes(b"no picture")
    (pictures / "B019.jpg").unlink()  # of an item that is in no sequence
    with pytest.raises(UserError, match=r"B004.jpg: no such file \(1 of 14 images"):
        load_amazon(folder, image_size=4, needs_images=True)
    picture(pictures, "B004", 1)
    with pytest.raises(UserError, match=r"B009.jpg: not a picture in a known format \(1 of 14 images"):
        load_amazon(folder, image_size=4, needs_images=True)
    picture(pictures, "B009", 1)
    assert load_amazon(folder, image_size=4, needs_images=True).images is not None


def test_absent_and_damaged_pictures_are_counted_apart(folder: Path, pictures: Path) -> None:
    (pictures / "B004.jpg").unlink()
    (pictures / "B009.jpg").write_bytes(b"no picture")
    (pictures / "B010.jpg").write_bytes(b"")
    both = load_amazon(folder, None, 4, Policies("drop-item", "drop-item"), needs_images=True)
    assert both.dropped["items without an image file"] == 1
    assert both.dropped["items whose image file cannot be read"] == 2
    mixed = load_amazon(folder, None, 4, Policies(missing="drop-item", bad="mean-image"), needs_images=True)
    assert mixed.dropped["items without an image file"] == 1
    assert "items whose image file cannot be read" not in mixed.dropped
    assert "B004" not in mixed.item_ids
    assert {"B009", "B010"} <= set(mixed.item_ids)
    assert any("2 of " in note and "cannot be read have the mean image" in note for note in mixed.notes)
    assert mixed.images is not None
    assert len(mixed.images) == len(mixed.item_ids)
    for item in mixed.item_ids:
        if item not in ("B009", "B010"):
            row = mixed.item_ids.index(item)
            assert np.array_equal(mixed.images[row], decode_image(pictures / f"{item}.jpg", 4))


def test_drop_item_takes_the_item_out_of_every_sequence(folder: Path, pictures: Path) -> None:
    (pictures / "B004.jpg").unlink()
    (pictures / "B018.jpg").unlink()  # of a short user only: not asked for
    catalogue = load_amazon(folder, image_size=4, policies=Policies("drop-item", "drop-item"), needs_images=True)
    assert catalogue.user_ids == ("long",), "the other has four items left"
    assert catalogue.images is not None
    # An older item moves up into the last 13.
    assert [catalogue.item_ids[item] for item in catalogue.sequences[0]] == [ITEMS[1], *ITEMS[2:4], *ITEMS[5:15]]
    assert len(catalogue.images) == len(catalogue.item_ids) == 13
    for row, item in enumerate(catalogue.item_ids):
        assert np.array_equal(catalogue.images[row], decode_image(pictures / f"{item}.jpg", 4))
    assert catalogue.dropped == {
        "users with fewer than 5 interactions": 2,
        "interactions of these users": 8,
        "interactions before a user's last 13": 1,
        "items in no sequence that is left": 6,
        "items without an image file": 1,
        "items whose image file cannot be read": 0,
        "interactions with these items": 2,
    }
    total = sum(map(len, USERS.values()))
    assert sum(map(len, catalogue.sequences)) + 8 + 1 + 2 == total
    assert "B004.jpg: no such file" in catalogue.notes[-1]
    again = load_amazon(folder, image_size=4, policies=Policies("drop-item", "drop-item"), needs_images=True)
    assert (again.digest, again.dropped, again.notes) == (catalogue.digest, catalogue.dropped, catalogue.notes)


def test_drop_item_that_leaves_nobody(folder: Path, pictures: Path) -> None:
    for item in ITEMS[:12]:
        (pictures / f"{item}.jpg").unlink()
    with pytest.raises(UserError, match="no user has 5 items that can be used"):
        load_amazon(folder, image_size=4, policies=Policies("drop-item", "drop-item"), needs_images=True)


def test_mean_image_keeps_every_item_and_says_so(folder: Path, pictures: Path) -> None:
    (pictures / "B004.jpg").unlink()
    catalogue = load_amazon(folder, image_size=4, policies=Policies("mean-image", "mean-image"), needs_images=True)
    plain = load_amazon(folder, needs_images=False)
    assert (catalogue.item_ids, catalogue.dropped) == (plain.item_ids, plain.dropped)
    assert catalogue.images is not None
    row = catalogue.item_ids.index("B004")
    others = np.delete(np.asarray(catalogue.images), row, axis=0)
    assert np.abs(catalogue.images[row] - others.mean(axis=0)).max() <= 0.5
    assert "1 of 14 items without an image file have the mean image" in catalogue.notes[-1]


@pytest.mark.parametrize(
    "item",
    [
        "../B004",
        "/etc/B004",
        "..",
        "a/b",
        "a\\b",
        "C:x",
        "x" * 201,
        ".hidden",
        "CON",
        "nul",
        "Lpt1",
        "com1.x",
        "AUX.jpg",
    ],
)
def test_ids_that_are_no_file_names_are_refused_when_pictures_are_wanted(
    folder: Path, pictures: Path, item: str
) -> None:
    replaced("x_items.tsv", b"B019\t", f"{item}\t".encode())(folder)
    assert load_amazon(folder, needs_images=False).user_ids
    with pytest.raises(UserError, match=r"x_items.tsv:20: item id .* cannot be the name of an image file"):
        load_amazon(folder, image_size=4, policies=Policies("mean-image", "mean-image"), needs_images=True)


def test_bad_picture_options(folder: Path, pictures: Path) -> None:
    for size in (None, 0, -1, 100_000):
        with pytest.raises(UserError, match="image size: "):
            load_amazon(folder, image_size=size, needs_images=True)
    with pytest.raises(UserError, match="missing images: 'guess' is not one of fail, drop-item, mean-image"):
        Policies("guess")  # type: ignore[arg-type]


def test_a_cache_that_cannot_be_written(folder: Path, pictures: Path, cache: Path) -> None:
    cache.write_text("a file")
    assert load_amazon(folder, needs_images=False).user_ids
    with pytest.raises(UserError, match=r"images\.npy: the resized images cannot be written"):
        load_amazon(folder, image_size=4, needs_images=True)
