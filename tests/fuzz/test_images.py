"""Files that claim to be pictures, and names that claim to be files in the folder of pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.data.readers import amazon
from bench.data.readers.amazon_files import Tables
from bench.data.readers.images import ImageProblem, decode_image
from bench.utils.errors import UserError
from tests.fuzz.harness import cases
from tests.fuzz.hostile import mutated, texts


def pictures() -> list[bytes]:
    """A small picture in every format and colour model that is read."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = [("JPEG", picture, {"exif": exif}), ("JPEG", picture.convert("CMYK"), {}), ("PNG", picture, {"exif": exif})]
    made += [("PNG", picture.convert(mode), {}) for mode in ("P", "1", "L", "LA", "RGBA", "I;16")]
    made += [("TIFF", picture.convert(mode), {}) for mode in ("RGB", "CMYK", "LAB", "F")]
    made += [("GIF", picture, {"save_all": True, "append_images": [picture.rotate(90)]}), ("WEBP", picture, {})]
    made += [("WEBP", picture, {"save_all": True, "append_images": [picture.rotate(90)]})]
    made += [("TIFF", picture, {"compression": kind}) for kind in ("tiff_lzw", "tiff_adobe_deflate", "packbits")]
    made += [("BMP", picture, {}), ("PPM", picture, {})]
    files = []
    for kind, image, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures") / "a.jpg"


@pytest.mark.filterwarnings("ignore")
@given(content=st.sampled_from(pictures()).flatmap(mutated), size=st.integers(1, 40))
@cases("pictures, bytes", 4)
def test_a_file_gives_a_picture_or_a_reason(path: Path, content: bytes, size: int) -> None:
    path.write_bytes(content)
    try:
        pixels = decode_image(path, size)
    except ImageProblem as problem:
        reason = str(problem)
    else:
        reason = f"{pixels.dtype} {pixels.shape}"
        assert reason == f"uint8 ({size}, {size}, 3)"
    assert reason


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("named")


@given(item=texts | st.text(alphabet="./\\:ab\0 ~CONconNULnul1", min_size=1, max_size=8))
@cases("item ids as names of files", 2)
def test_no_item_id_leads_out_of_the_folder(empty: Path, item: str) -> None:
    tables = Tables([item], ["items.tsv:1"], ["title"], (0, 0), [], [])
    try:
        amazon._check_names(tables)
    except UserError:
        return
    name = empty / f"{item}.jpg"
    assert name.resolve().parent == empty.resolve()
    name.write_bytes(b"x")  # the system takes it for a name
    assert [found.name for found in empty.iterdir()] == [f"{item}.jpg"]
    name.unlink()
