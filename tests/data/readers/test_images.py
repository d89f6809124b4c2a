"""Pictures: every colour model comes out as RGB, damage is named, and the array holds what was decoded."""

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bench.data.readers import images
from bench.data.readers.images import ImagePolicy, ImageProblem, Policies, build_image_array, decode_image, select_rows
from bench.utils.errors import UserError


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Three sound pictures of one colour each, 10, 20 and 60 in all channels."""
    return [saved(Image.new("RGB", (9, 7), (level,) * 3), tmp_path / f"{level}.png") for level in (10, 20, 60)]


def triangle_weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): linear interpolation, widened to the spacing of the new pixels when shrinking."""
    scale = old / new
    width = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs((np.arange(old) + 0.5 - centres[:, None]) / width))
    normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return normalised


@pytest.mark.parametrize(("height", "width"), [(50, 33), (12, 40), (24, 24), (7, 5)])
def test_resizing_is_bilinear_with_antialiasing_and_cuts_nothing_off(tmp_path: Path, height: int, width: int) -> None:
    pixels = noise(height, width)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    expected = np.einsum(
        "yh,xw,hwc->yxc", triangle_weights(height, 24), triangle_weights(width, 24), pixels.astype(float)
    )
    assert np.abs(decode_image(path, 24) - expected).max() <= 1.01  # rounded once per direction


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "jpg"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(Image.fromarray(noise(16, 16)), tmp_path / f"a.{kind}", exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(decode_image(path, 16), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_beside_a_sound_picture_is_ignored(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert np.array_equal(decode_image(path, 8), pixels)


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    half = saved(Image.new("RGBA", (4, 4), (200, 0, 100, 51)), tmp_path / "rgba.png")
    expected = [round(255 + (channel - 255) * 51 / 255) for channel in (200, 0, 100)]
    assert np.abs(decode_image(half, 4)[0, 0].astype(int) - expected).max() <= 1
    grey = saved(Image.new("LA", (4, 4), (0, 0)), tmp_path / "la.png")
    assert (decode_image(grey, 4) == 255).all()
    keyed = saved(Image.new("RGB", (4, 4), (1, 2, 3)), tmp_path / "key.png", transparency=(1, 2, 3))
    assert (decode_image(keyed, 4) == 255).all()


def test_palette_pictures_with_and_without_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([9, 9, 9, 30, 60, 90])
    assert decode_image(saved(picture, tmp_path / "plain.png"), 4)[0, 0].tolist() == [30, 60, 90]
    clear = saved(picture, tmp_path / "clear.png", transparency=1)
    assert decode_image(clear, 4)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_grey_and_one_bit(tmp_path: Path) -> None:
    inks = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert np.abs(decode_image(inks, 16)[8, 8].astype(int) - [255, 0, 0]).max() <= 3
    grey = saved(Image.new("L", (4, 4), 77), tmp_path / "grey.png")
    assert decode_image(grey, 4)[0, 0].tolist() == [77, 77, 77]
    white = saved(Image.new("1", (4, 4), 1), tmp_path / "bit.png")
    assert decode_image(white, 4)[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path, kind: str) -> None:
    levels = np.array([[0, 257, 300], [32896, 65278, 65535]], dtype=np.uint16)
    path = saved(Image.fromarray(np.repeat(np.repeat(levels, 3, 0), 2, 1)), tmp_path / f"a.{kind}")
    decoded = decode_image(path, 6)
    assert decoded[::3, ::2, 0].tolist() == [[0, 1, 1], [128, 254, 255]]
    assert (decoded[..., 0] == decoded[..., 2]).all()


def test_the_first_frame_of_several(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode_image(path, 4)[0, 0].tolist() == [255, 0, 0]


def test_the_name_does_not_decide_the_format(tmp_path: Path) -> None:
    pixels = noise(5, 5)
    path = saved(Image.fromarray(pixels), tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(decode_image(path, 5), pixels)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [7_100, 12_000, 60_000])  # beyond our limit, Pillow's warning, Pillow's error
def test_a_picture_too_large_to_decode_is_refused(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(side, side))
    tracemalloc.start()
    with pytest.raises(UserError, match="pixels"):
        build_image_array([path], 8, tmp_path / "out.npy", Policies())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    floats = saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), tmp_path / "f.tiff")
    wide = saved(Image.fromarray(np.full((4, 4), 70_000, dtype=np.int32)), tmp_path / "i.tiff")
    for path in (floats, wide):
        with pytest.raises(ImageProblem, match="no known range"):
            decode_image(path, 4)


def test_formats_that_start_programs_are_not_opened(tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "a.eps")
    with pytest.raises(ImageProblem, match="known format"):
        decode_image(path, 4)


def broken_files(folder: Path) -> dict[str, Path]:
    """One file of each kind of damage, by what its message must say."""
    sound = saved(Image.fromarray(noise(64, 64)), folder / "sound.jpg").read_bytes()
    files = {"cannot be decoded": sound[: len(sound) // 2], "known format": b"<html>404</html>", "empty file": b""}
    for number, content in enumerate(files.values()):
        (folder / f"{number}.jpg").write_bytes(content)
    (folder / "folder.jpg").mkdir()
    named = {reason: folder / f"{number}.jpg" for number, reason in enumerate(files)}
    return named | {"no such file": folder / "absent.jpg", "not a file": folder / "folder.jpg"}


@pytest.mark.parametrize("reason", ["cannot be decoded", "known format", "empty file", "no such file", "not a file"])
def test_damage_is_named_with_its_file(tmp_path: Path, three: list[Path], reason: str) -> None:
    path = broken_files(tmp_path)[reason]
    with pytest.raises(UserError, match=reason) as caught:
        build_image_array([*three, path], 8, tmp_path / "out.npy", Policies())
    assert str(path) in str(caught.value)
    assert "1 of 4 images" in str(caught.value)
    assert not (tmp_path / "out.npy").exists()
    assert not list(tmp_path.glob(".out*"))


def test_fail_counts_all_and_names_the_first(tmp_path: Path, three: list[Path]) -> None:
    bad = [path for reason, path in broken_files(tmp_path).items() if reason in ("cannot be decoded", "known format")]
    with pytest.raises(UserError) as caught:
        build_image_array([three[0], bad[1], three[1], bad[0]], 8, tmp_path / "out.npy", Policies())
    assert str(caught.value).startswith(f"{bad[1]}: ")
    assert "2 of 4 images" in str(caught.value)


def test_all_sound_files_give_the_decoded_rows_under_every_policy(tmp_path: Path) -> None:
    paths = [saved(Image.fromarray(noise(20 + i, 30, seed=i)), tmp_path / f"{i}.png") for i in range(5)]
    expected = np.stack([decode_image(path, 8) for path in paths])
    for policy in get_args(ImagePolicy):
        made = build_image_array(paths, 8, tmp_path / f"{policy}.npy", Policies(policy, policy))
        assert np.array_equal(made.pixels, expected)
        assert made.kept.all()
        assert not made.bad
        assert isinstance(made.pixels, np.memmap)
        assert not made.pixels.flags.writeable


def test_links_may_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    saved(Image.new("RGB", (4, 4), "red"), folder / "inside.png")
    secret = saved(Image.new("RGB", (4, 4), "blue"), tmp_path / "secret.png")
    (folder / "a.jpg").symlink_to("inside.png")
    (folder / "b.jpg").symlink_to(secret)
    (folder / "c.jpg").symlink_to(folder / "d.jpg")
    (folder / "d.jpg").symlink_to(folder / "c.jpg")
    (folder / "e.jpg").symlink_to(folder / "gone.png")
    (folder / "f.jpg").symlink_to("/dev/zero")
    names = [folder / f"{letter}.jpg" for letter in "abcdef"]
    made = build_image_array(names, 4, tmp_path / "out.npy", Policies("drop-item", "drop-item"))
    assert made.pixels[:, 0, 0].tolist() == [[255, 0, 0]]
    assert [(bad.path.stem, bad.kind) for bad in made.bad] == [
        ("b", "bad"), ("c", "bad"), ("d", "bad"), ("e", "missing"), ("f", "bad"),
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"b\.jpg: a link that leads out of the image folder \(4 of 6 .*--bad-images"):
        build_image_array(names, 4, tmp_path / "out.npy", Policies(missing="drop-item"))
    # The folder itself may be a link.
    (tmp_path / "linked").symlink_to(folder)
    assert not build_image_array([tmp_path / "linked" / "a.jpg"], 4, tmp_path / "out.npy").bad


def test_each_kind_has_its_policy(tmp_path: Path, three: list[Path]) -> None:
    broken = broken_files(tmp_path)
    absent, damaged = broken["no such file"], broken["known format"]
    paths = [absent, three[0], damaged, three[1], three[2]]
    made = build_image_array(paths, 4, tmp_path / "out.npy", Policies(missing="drop-item", bad="mean-image"))
    assert made.pixels[:, 0, 0, 0].tolist() == [10, 30, 20, 60]
    assert made.kept.tolist() == [False, True, True, True, True]
    made = build_image_array(paths, 4, tmp_path / "out.npy", Policies(missing="mean-image", bad="drop-item"))
    assert made.pixels[:, 0, 0, 0].tolist() == [30, 10, 20, 60]
    assert [bad.path for bad in made.of_kind("missing")] == [absent]
    with pytest.raises(
        UserError, match=r"1 of 5 images are missing; to go on without them: --missing-images drop-item or mean-image"
    ):
        build_image_array(paths, 4, tmp_path / "out.npy", Policies(bad="drop-item"))
    with pytest.raises(
        UserError, match=r"1 of 5 images cannot be read; to go on without them: --bad-images drop-item or mean-image"
    ):
        build_image_array(paths, 4, tmp_path / "out.npy", Policies(missing="drop-item"))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (1, 20_000)])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif", "bmp", "tiff"])
def test_odd_shapes(tmp_path: Path, width: int, height: int, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "webp" and max(width, height) > 16_383:
        pytest.skip("WebP ends at 16,383 pixels")
    Image.new("RGB", (width, height), (200, 100, 50)).save(path, **({"quality": 100} if kind == "jpg" else {}))
    assert np.abs(decode_image(path, 8).astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize(("mode", "clear"), [("1", 0), ("L", 5), ("I;16", 5)])
def test_a_grey_level_that_stands_for_nothing_lies_on_white(tmp_path: Path, mode: str, clear: int) -> None:
    levels = np.full((4, 4), clear, dtype=np.uint16)
    image = Image.fromarray(levels) if mode == "I;16" else Image.new(mode, (4, 4), clear)
    assert (decode_image(saved(image, tmp_path / "a.png", transparency=clear), 4) == 255).all()


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_file_that_ends_early_is_never_read(tmp_path: Path, kind: str) -> None:
    whole = saved(Image.fromarray(noise(24, 24)), tmp_path / "whole", format=kind).read_bytes()
    path = tmp_path / "a.jpg"
    for length in range(1, len(whole) - 20, max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageProblem):
            decode_image(path, 8)


def test_a_small_canvas_with_a_huge_frame(tmp_path: Path) -> None:
    whole = bytearray(saved(Image.new("P", (4, 4)), tmp_path / "a.gif").read_bytes())
    place = whole.index(b",")  # the frame: left, top, width, height in 16 bits each
    whole[place + 5 : place + 9] = struct.pack("<HH", 60_000, 60_000)
    (tmp_path / "a.gif").write_bytes(bytes(whole))
    with pytest.raises(ImageProblem):
        decode_image(tmp_path / "a.gif", 8)


def test_drop_item_leaves_bad_files_out(tmp_path: Path, three: list[Path]) -> None:
    bad = list(broken_files(tmp_path).values())
    paths = [bad[0], three[0], *bad[1:], three[1], three[2]]
    made = build_image_array(paths, 4, tmp_path / "out.npy", Policies("drop-item", "drop-item"))
    assert made.pixels[:, 0, 0, 0].tolist() == [10, 20, 60]
    assert made.kept.tolist() == [False, True, False, False, False, False, True, True]
    assert [problem.path for problem in made.bad] == bad
    assert (tmp_path / "out.npy").stat().st_size == 128 + 3 * 4 * 4 * 3, "no bytes of the bad ones are left behind"


def test_mean_image_is_the_mean_of_the_usable_ones(tmp_path: Path, three: list[Path]) -> None:
    bad = broken_files(tmp_path)["cannot be decoded"]
    made = build_image_array(
        [three[0], bad, three[1], three[2]], 4, tmp_path / "out.npy", Policies("mean-image", "mean-image")
    )
    assert made.pixels[:, 2, 1, 1].tolist() == [10, 30, 20, 60]
    assert (made.pixels[1] == 30).all()
    assert len(made.bad) == 1


@pytest.mark.parametrize("policy", ["drop-item", "mean-image"])
def test_no_policy_makes_pictures_of_nothing(tmp_path: Path, policy: ImagePolicy) -> None:
    with pytest.raises(UserError, match="2 of 2 images cannot be used"):
        build_image_array(list(broken_files(tmp_path).values())[:2], 8, tmp_path / "out.npy", Policies(policy, policy))


def test_a_failure_leaves_the_old_array_alone(tmp_path: Path, three: list[Path]) -> None:
    out = tmp_path / "out.npy"
    build_image_array(three, 4, out, Policies())
    before = out.read_bytes()
    with pytest.raises(UserError):
        build_image_array([*three, tmp_path / "absent.jpg"], 4, out, Policies())
    assert out.read_bytes() == before


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path, three: list[Path]) -> None:
    rows = 600
    tracemalloc.start()
    made = build_image_array(three * (rows // 3), 64, tmp_path / "out.npy", Policies())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.pixels.nbytes == rows * 64 * 64 * 3
    assert peak < made.pixels.nbytes / 4


def test_select_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.npy"
    array = np.arange(200 * 12, dtype=np.uint32).astype(np.uint8).reshape(200, 2, 2, 3)
    np.save(out, array)
    rows = np.flatnonzero(np.arange(200) % 3)
    assert np.array_equal(select_rows(out, rows), array[rows])
    assert np.array_equal(np.load(out), array[rows])


def test_progress_is_told(tmp_path: Path, three: list[Path]) -> None:
    told: list[tuple[int, int]] = []
    build_image_array(three, 4, tmp_path / "out.npy", Policies(), lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_bad_options_and_places(tmp_path: Path, three: list[Path]) -> None:
    with pytest.raises(UserError, match="image size: 0"):
        build_image_array(three, 0, tmp_path / "out.npy", Policies())
    with pytest.raises(UserError, match="bad images: 'ignore' is not one of fail, drop-item, mean-image"):
        Policies(bad="ignore")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be written"):
        build_image_array(three, 4, three[0] / "out.npy", Policies())


def test_no_memory_is_not_taken_for_a_bad_picture(three: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: object) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(images, "_rgb", no_memory)
    with pytest.raises(MemoryError):
        decode_image(three[0], 4)
