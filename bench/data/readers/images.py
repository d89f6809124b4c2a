"""Pictures from files into one memory-mapped array: decoded and resized once, not per step."""

import io
import os
import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bench.utils.errors import UserError
from bench.utils.files import atomic_path

ImagePolicy = Literal["fail", "drop-item", "mean-image"]
IMAGE_POLICIES: tuple[ImagePolicy, ...] = get_args(ImagePolicy)
"""What is done with items that have no usable picture."""
Kind = Literal["missing", "bad"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""There is no file; there is one that cannot, or must not, be read."""

MAX_PIXELS = 50_000_000
"""A larger picture is taken for damage or an attack: it would need hundreds of megabytes to decode."""
MAX_SIZE = 2048
# Only formats that Pillow decodes itself: others start outside programs (EPS) or are no pictures of products.
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ROWS_AT_A_TIME = 64

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


class ImageProblem(Exception):
    """Why one file gives no picture, without its name."""


@dataclass(frozen=True)
class Policies:
    """What is done about pictures that are not there, and about those that cannot be read.

    Raises:
        UserError: not one of `IMAGE_POLICIES`.
    """

    missing: ImagePolicy = "fail"
    bad: ImagePolicy = "fail"

    def __post_init__(self) -> None:
        for kind in KINDS:
            if self.of(kind) not in IMAGE_POLICIES:
                raise UserError(f"{kind} images: {self.of(kind)!r} is not one of {', '.join(IMAGE_POLICIES)}")

    def of(self, kind: Kind) -> ImagePolicy:
        """The policy for one kind."""
        return self.missing if kind == "missing" else self.bad

    @property
    def drop(self) -> tuple[Kind, ...]:
        """The kinds whose items are left out."""
        return tuple(kind for kind in KINDS if self.of(kind) == "drop-item")


FAIL = Policies()
"""Nothing is let pass."""


@dataclass(frozen=True)
class BadImage:
    """A file that gave no picture."""

    path: Path
    reason: str
    kind: Kind = "bad"


@dataclass(frozen=True, eq=False)
class ImageArray:
    """What `build_image_array` made of a list of files."""

    pixels: NDArray[np.uint8]
    """(rows, size, size, 3), a read-only memory map; with "drop-item" the bad files have no row."""
    kept: NDArray[np.bool_]
    """(files,): whether the file has a row."""
    bad: tuple[BadImage, ...]

    def of_kind(self, kind: Kind) -> tuple[BadImage, ...]:
        """The bad ones of one kind, in the order of the files."""
        return tuple(problem for problem in self.bad if problem.kind == kind)


def build_image_array(
    paths: Sequence[Path],
    size: int,
    out_path: Path,
    policies: Policies = FAIL,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> ImageArray:
    """Decode each file, bring it to size × size pixels and write them all to one .npy file, in memory for one picture.

    Files that are absent are one kind of problem; those that are empty, damaged, larger than `MAX_PIXELS` or links that
    lead out of `folder` (their own if there is none) are the other. `policies` says for each: "fail" raises UserError
    with their number and the first of them, "drop-item" leaves them out, "mean-image" puts the mean of the usable
    pictures in their place. Raises UserError also if no file is usable or `out_path` cannot be written.
    """
    if not 1 <= size <= MAX_SIZE:
        raise UserError(f"image size: {size} is not between 1 and {MAX_SIZE} pixels")
    bad = {
        index: problem for index, path in enumerate(paths) if (problem := _file_problem(path, folder or path.parent))
    }
    _check_enough(bad, len(paths), policies)  # before minutes of decoding
    try:
        with atomic_path(out_path) as temporary, temporary.open("w+b") as file:
            _write_pictures(file, paths, size, policies, bad, progress)
            _check_enough(bad, len(paths), policies)
    except OSError as error:
        raise UserError(f"{out_path}: the resized images cannot be written: {error.strerror or error}") from error
    kept = np.ones(len(paths), dtype=np.bool_)
    kept[[index for index, problem in bad.items() if problem.kind in policies.drop]] = False
    return ImageArray(open_array(out_path), kept, tuple(bad[index] for index in sorted(bad)))


def open_array(path: Path) -> NDArray[np.uint8]:
    """Memory-map an array of pictures, read-only."""
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def select_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rewrite an array of pictures with only the given rows, some at a time, and map it again. Raises UserError."""
    source = open_array(path)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_header((len(rows), *source.shape[1:])))
            for start in range(0, len(rows), _ROWS_AT_A_TIME):
                file.write(source[rows[start : start + _ROWS_AT_A_TIME]].tobytes())
    except OSError as error:
        raise UserError(f"{path}: the resized images cannot be written: {error.strerror or error}") from error
    return open_array(path)


def decode_image(path: Path, size: int) -> NDArray[np.uint8]:
    """One picture as (size, size, 3) RGB: upright by its EXIF, transparency on white, the first frame of several.

    It is brought to size × size by bilinear interpolation with antialiasing, height and width each on its own and
    nothing cut off, as transformers' ViT image processor does by default. Colour profiles are ignored.

    Raises ImageProblem.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageProblem(f"{image.width} × {image.height} pixels are more than {MAX_PIXELS}")
            image.load()
            upright = _rgb(image)
            # Read after loading: Pillow turns TIFF pictures by itself then, and says so by taking the tag away.
            if (turn := _UPRIGHT.get(_orientation(image))) is not None:
                upright = upright.transpose(turn)
        return np.asarray(upright.resize((size, size), Image.Resampling.BILINEAR))
    except (ImageProblem, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageProblem("not a picture in a known format") from error
    except Exception as error:  # on damaged files decoders raise whatever they stumble over
        raise ImageProblem(f"cannot be decoded ({str(error) or type(error).__name__})") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged EXIF beside a sound picture: then it says nothing about its orientation
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ImageProblem("floating-point pixels have no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):  # Pillow's own conversion clips these at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ImageProblem("grey levels beyond 16 bits have no known range")
        if isinstance(clear := image.info.get("transparency"), int):
            levels[levels == clear] = 0xFFFF
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _file_problem(path: Path, folder: Path) -> BadImage | None:
    """Why there is no use in opening the file, or nothing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return BadImage(path, "no such file", "missing")
    except OSError as error:
        return BadImage(path, f"cannot be read: {error.strerror}")
    if _leads_out(path, folder):
        return BadImage(path, "a link that leads out of the image folder")
    if not stat.S_ISREG(status.st_mode):
        return BadImage(path, "not a file")
    return None if status.st_size else BadImage(path, "empty file")


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a link ends outside of the folder of pictures: what is read there was never meant to be shown."""
    if path.parent == folder and not path.is_symlink():
        return False
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _check_enough(bad: dict[int, BadImage], total: int, policies: Policies) -> None:
    if not bad:
        return
    for kind, what in (("missing", "are not there"), ("bad", "cannot be read")):
        found = [bad[index] for index in sorted(bad) if bad[index].kind == kind]
        if found and policies.of(found[0].kind) == "fail":
            raise UserError(
                f"{found[0].path}: {found[0].reason} ({len(found)} of {total} images {what}; --{kind}-images drop-item "
                "or mean-image goes on without them)"
            )
    if len(bad) == total:
        first = bad[min(bad)]
        raise UserError(f"{first.path}: {first.reason} ({len(bad)} of {total} images cannot be used)")


def _write_pictures(
    file: BinaryIO,
    paths: Sequence[Path],
    size: int,
    policies: Policies,
    bad: dict[int, BadImage],
    progress: Progress | None,
) -> None:
    """Write header and rows, adding to `bad` what cannot be decoded."""
    shape = (size, size, 3)
    total = np.zeros(shape, dtype=np.int64)
    rows, stand_ins = 0, []
    file.write(_header((len(paths), *shape)))
    first_row = file.tell()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about odd files; what matters is raised or checked here
        for index, path in enumerate(paths):
            pixels = None if index in bad else _decoded(index, path, size, bad)
            if pixels is not None:
                total += pixels
                file.write(pixels.tobytes())
                rows += 1
            elif policies.of(bad[index].kind) == "mean-image":
                file.write(bytes(total.size))
                stand_ins.append(rows)
                rows += 1
            if progress is not None:
                progress(index + 1, len(paths))
    # numpy leaves room in a header for the first dimension to change, so that the rows stay where they are.
    file.seek(0)
    file.write(_header((rows, *shape)))
    if used := len(paths) - len(bad):
        mean = ((2 * total + used) // (2 * used)).astype(np.uint8)
        for row in stand_ins:
            file.seek(first_row + row * mean.size)
            file.write(mean.tobytes())


def _decoded(index: int, path: Path, size: int, bad: dict[int, BadImage]) -> NDArray[np.uint8] | None:
    try:
        return decode_image(path, size)
    except ImageProblem as problem:
        bad[index] = BadImage(path, str(problem))
        return None


def _header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, layout)
    return buffer.getvalue()
