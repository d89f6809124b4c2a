"""The file: plain safetensors for others, every byte checked here, gathers equal to those of an array."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bench.data.cache import array_file
from bench.data.cache.array_cache import open_or_build
from bench.data.cache.array_file import Damaged, Layout, Rows, bad_blocks, check_blocks, read_header

RNG = np.random.default_rng(5)


def write(path: Path, values: np.ndarray, tensor: str = "states", **facts: str) -> Layout:
    layout = Layout(path.stem, tensor, values.shape, str(values.dtype), facts)
    open_or_build(path.parent, layout, lambda rows: values[rows])
    return layout


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((700, 3, 8), "float16"),
        ((256, 2, 4), "float32"),
        ((257, 5, 5, 3), "uint8"),
        ((1, 1, 1), "float16"),
        ((0, 2), "float32"),
    ],
)
def test_others_read_it_as_plain_safetensors(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    values = RNG.integers(0, 200, shape).astype(dtype)
    path = tmp_path / f"{'a' * 32}.safetensors"
    layout = write(path, values, model='a "model" of Zoë\udcff', layers="0 2")
    with safe_open(path, "np") as file:
        assert list(file.keys()) == ["states"]
        read = file.get_tensor("states")
        metadata = file.metadata()
    assert read.dtype == values.dtype
    assert np.array_equal(read, values)
    assert metadata["layers"] == "0 2"
    assert metadata["model"] == 'a "model" of Zoë?'
    assert path.stat().st_size == layout.file_bytes
    assert layout.data_start % 4096 == 0
    with path.open("rb") as file:
        header = read_header(file)
        assert header.layout == layout
        assert header.layout.facts["layers"] == "0 2"
        check_blocks(file, header)


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / f"{'a' * 32}.safetensors"
    layout = write(path, RNG.integers(0, 200, (300, 2)).astype("uint8"))
    raw = path.read_bytes()
    assert len(raw) == 4096 + 600
    with path.open("r+b", buffering=0) as file:  # a buffer would not see the changes
        for position in [*range(700), *range(700, len(raw), 7)]:
            for bit in (0, 5):
                os.pwrite(file.fileno(), bytes([raw[position] ^ 1 << bit]), position)
                with pytest.raises(Damaged):
                    check_blocks(file, read_header(file))
            os.pwrite(file.fileno(), raw[position : position + 1], position)
        assert bad_blocks(file, layout, read_header(file).sums) == []


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 7,
        b"\0" * 5000,
        b"\xff" * 5000,
        (20).to_bytes(8, "little") + b"[" * 5000,
        (5000).to_bytes(8, "little") + b"[" * 5000,
        (2).to_bytes(8, "little") + b"{}" + bytes(10),
        (2).to_bytes(8, "little") + b"[]" + bytes(10),
        (21).to_bytes(8, "little") + b'{"__metadata__": null}' + bytes(10),
        (33).to_bytes(8, "little") + b'{"__metadata__":{"format":"else"}}' + bytes(10),
    ],
)
def test_foreign_files_are_refused(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(raw)
    with path.open("rb") as file, pytest.raises(Damaged):
        read_header(file)


@pytest.mark.parametrize("mapped", [1 << 30, 0])
def test_gathers_are_those_of_an_array(mapped: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_file, "MAPPED_BYTES", mapped)
    values = RNG.normal(size=(700, 3, 50)).astype("float16")
    path = tmp_path / f"{'a' * 32}.safetensors"
    layout = write(path, values)
    with path.open("rb") as file:
        rows = Rows(file, layout)
    for _ in range(20):
        wanted = RNG.integers(0, 700, 60)
        assert np.array_equal(rows[wanted], values[wanted])
    assert np.array_equal(rows[5], values[5])
    assert np.array_equal(rows[3:9], values[3:9])
    assert (len(rows), rows.shape, rows.dtype) == (700, (700, 3, 50), np.float16)
    assert np.asarray(rows, dtype=np.float32).dtype == np.float32
    assert np.array_equal(np.asarray(rows), values)
    for outside in (700, np.array([3, 700]), np.array([-701])):
        with pytest.raises(IndexError):
            rows[outside]
