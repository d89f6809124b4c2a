"""Decoding and resizing of picture files into one memory-mapped array, once instead of in every step."""

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

from bench.data.framing import Framing, PictureSize
from bench.data.readers.file_names import similar_name
from bench.utils.errors import UserError
from bench.utils.files import atomic_path

ImagePolicy = Literal["fail", "drop-item", "mean-image"]
IMAGE_POLICIES: tuple[ImagePolicy, ...] = get_args(ImagePolicy)
"""Treatments of items without a usable picture."""
Problem = Literal["missing", "bad"]
PROBLEMS: tuple[Problem, ...] = get_args(Problem)
"""Kinds of problems: "missing", the file is absent; "bad", the file cannot or must not be read."""

MAX_PIXELS = 50_000_000
"""Largest picture: decoding a larger one would take hundreds of megabytes, as damage or an attack would."""
MAX_SIZE = 2048
"""Largest height and width of resized pictures."""
# Only formats that Pillow decodes itself: others start external programs (EPS) or are not used for product pictures.
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
"""Function that is called with the numbers of pictures done and in all."""


class ImageProblem(Exception):
    """Reason why a file gives no picture, without the name of the file."""


@dataclass(frozen=True)
class Policies:
    """Treatment of missing pictures and of bad pictures.

    Raises:
        UserError: a policy is not one of `IMAGE_POLICIES`.
    """

    missing: ImagePolicy = "fail"
    bad: ImagePolicy = "fail"

    def __post_init__(self) -> None:
        for kind in PROBLEMS:
            if self.of(kind) not in IMAGE_POLICIES:
                raise UserError(f"{kind} images: {self.of(kind)!r} is not one of {', '.join(IMAGE_POLICIES)}")

    def of(self, kind: Problem) -> ImagePolicy:
        """Policy for one kind of problem."""
        return self.missing if kind == "missing" else self.bad

    @property
    def drop(self) -> tuple[Problem, ...]:
        """Kinds of problems whose items are left out."""
        return tuple(kind for kind in PROBLEMS if self.of(kind) == "drop-item")


FAIL = Policies()
"""Policies under which any problem is an error."""


@dataclass(frozen=True)
class BadImage:
    """File that gave no picture, and the reason."""

    path: Path
    reason: str
    kind: Problem = "bad"

    @property
    def explained(self) -> str:
        """The reason, and the name of a file that may be the absent one."""
        other = similar_name(self.path) if self.kind == "missing" else ""
        return f"{self.reason}, but there is {other!a}" if other else self.reason


@dataclass(frozen=True, eq=False)
class ImageArray:
    """Result of `build_image_array` for a list of files."""

    pixels: NDArray[np.uint8]
    """Read-only memory map, (rows, size, size, 3); dropped files have no row."""
    kept: NDArray[np.bool_]
    """True for files with a row, (files,)."""
    bad: tuple[BadImage, ...]

    def of_kind(self, kind: Problem) -> tuple[BadImage, ...]:
        """Files with one kind of problem, in the order of the files."""
        return tuple(problem for problem in self.bad if problem.kind == kind)


def build_image_array(
    paths: Sequence[Path],
    size: PictureSize,
    out_path: Path,
    policies: Policies = FAIL,
    progress: Progress | None = None,
    folder: Path | None = None,
) -> ImageArray:
    """Decode each file, resize it to size × size pixels and write all to one .npy file, with one picture in memory.

    Absent files are "missing". Files that are empty, damaged, larger than `MAX_PIXELS`, or links that lead out of the
    folder are "bad".

    Args:
        paths: the picture files.
        size: height and width in pixels, or the framing.
        out_path: .npy file to write.
        policies: for each kind of problem "fail" (UserError with the number of files and the first of them),
            "drop-item" (no row for the file) or "mean-image" (the mean of the usable pictures).
        progress: called with the numbers of pictures done and in all.
        folder: folder that links may not lead out of; None for the folder of each file.

    Raises:
        UserError: a problem under the policy "fail", no usable file, or `out_path` cannot be written.
    """
    if not 1 <= (pixels := Framing.of(size).size) <= MAX_SIZE:
        raise UserError(f"image size: {pixels} is not between 1 and {MAX_SIZE} pixels")
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
    """Read-only memory map of an array of pictures, (rows, size, size, 3)."""
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def select_rows(path: Path, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Rewrite an array of pictures with only the given rows, some rows at a time; returns its map. Raises UserError."""
    source = open_array(path)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(_header((len(rows), *source.shape[1:])))
            for start in range(0, len(rows), _ROWS_AT_A_TIME):
                file.write(source[rows[start : start + _ROWS_AT_A_TIME]].tobytes())
    except OSError as error:
        raise UserError(f"{path}: the resized images cannot be written: {error.strerror or error}") from error
    return open_array(path)


def decode_image(path: Path, size: PictureSize) -> NDArray[np.uint8]:
    """Decode a picture as (size, size, 3) RGB: upright by its EXIF tag, transparency on white, first frame.

    A size in pixels means plain framing: bilinear interpolation with antialiasing, without keeping the aspect ratio or
    cropping, as the ViT image processor of transformers does by default. Colour profiles are ignored.

    Raises:
        ImageProblem: the file is not a picture that can be decoded; the message is the reason.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageProblem(f"{image.width} × {image.height} pixels are more than {MAX_PIXELS}")
            image.load()
            upright = _rgb(image)
            # Read after loading: Pillow then rotates TIFF pictures itself and removes the tag.
            if (turn := _UPRIGHT.get(_orientation(image))) is not None:
                upright = upright.transpose(turn)
        return np.asarray(Framing.of(size).apply(upright))
    except (ImageProblem, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageProblem("not a picture in a known format") from error
    except Exception as error:  # on damaged files decoders raise exceptions of any type
        raise ImageProblem(f"cannot be decoded ({str(error) or type(error).__name__})") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # the EXIF data are damaged, the picture is not: orientation unknown
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
    """Problem that shows without opening the file, or None."""
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
    """True if a link ends outside of the folder of pictures, at a file that may not be meant to be read."""
    if path.parent == folder and not path.is_symlink():
        return False
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _check_enough(bad: dict[int, BadImage], total: int, policies: Policies) -> None:
    if not bad:
        return
    for kind, what in (("missing", "are missing"), ("bad", "cannot be read")):
        found = [bad[index] for index in sorted(bad) if bad[index].kind == kind]
        if found and policies.of(found[0].kind) == "fail":
            raise UserError(
                f"{found[0].path}: {found[0].explained} ({len(found)} of {total} images {what}; to go on without them: "
                f"--{kind}-images drop-item or mean-image)"
            )
    if len(bad) == total:
        first = bad[min(bad)]
        raise UserError(f"{first.path}: {first.explained} ({len(bad)} of {total} images cannot be used)")


def _write_pictures(
    file: BinaryIO,
    paths: Sequence[Path],
    size: PictureSize,
    policies: Policies,
    bad: dict[int, BadImage],
    progress: Progress | None,
) -> None:
    """Write header and rows; files that cannot be decoded are added to `bad`."""
    shape = (Framing.of(size).size, Framing.of(size).size, 3)
    total = np.zeros(shape, dtype=np.int64)
    rows, stand_ins = 0, []
    file.write(_header((len(paths), *shape)))
    first_row = file.tell()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about unusual files: errors are raised or checked here
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
    # numpy reserves space in a header for a change of the first dimension: the rows need not move.
    file.seek(0)
    file.write(_header((rows, *shape)))
    if used := len(paths) - len(bad):
        mean = ((2 * total + used) // (2 * used)).astype(np.uint8)
        for row in stand_ins:
            file.seek(first_row + row * mean.size)
            file.write(mean.tobytes())


def _decoded(index: int, path: Path, size: PictureSize, bad: dict[int, BadImage]) -> NDArray[np.uint8] | None:
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
