import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.errors import UserError
from bench.models.hidden import cache_key, open_or_build

SHAPE = (600, 3, 8)
TRUTH = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def compute(rows: np.ndarray) -> torch.Tensor:
    return TRUTH[torch.from_numpy(rows)]


def never(rows: np.ndarray) -> torch.Tensor:
    pytest.fail("built although it was there")


def test_build_then_serve(tmp_path: Path) -> None:
    built = open_or_build(tmp_path, "k", SHAPE, "float32", compute)
    assert not built.reused
    assert np.array_equal(built.states, TRUTH.numpy())
    served = open_or_build(tmp_path, "k", SHAPE, "float32", never)
    assert served.reused
    assert served.seconds == built.seconds
    assert isinstance(served.states, np.memmap)
    assert np.array_equal(served.states, TRUTH.numpy())


def test_16_bit_is_half_the_bytes_and_rounds(tmp_path: Path) -> None:
    half = open_or_build(tmp_path, "h", SHAPE, "float16", compute)
    whole = open_or_build(tmp_path, "w", SHAPE, "float32", compute)
    header = half.size - np.prod(SHAPE) * 2
    assert whole.size - header == 2 * (half.size - header)
    assert np.abs(np.asarray(half.states, dtype=np.float32) - TRUTH.numpy()).max() <= np.abs(TRUTH).max() * 2**-11


def test_what_does_not_fit_into_16_bit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit into 16 bit"):
        open_or_build(tmp_path, "k", SHAPE, "float16", lambda rows: compute(rows) * 1e6)
    assert not list(tmp_path.glob("*.npy"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("harm", ["truncate", "header", "other-shape", "no-facts"])
def test_a_damaged_file_is_built_again(harm: str, tmp_path: Path) -> None:
    open_or_build(tmp_path, "k", SHAPE, "float32", compute)
    file = tmp_path / "k.npy"
    if harm == "truncate":
        os.truncate(file, file.stat().st_size - 100)
    elif harm == "header":
        file.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr" + file.read_bytes()[14:])
    elif harm == "other-shape":
        np.save(file, np.zeros((2, 2), dtype=np.float32))
    else:
        (tmp_path / "k.json").unlink()
    again = open_or_build(tmp_path, "k", SHAPE, "float32", compute)
    assert not again.reused
    assert np.array_equal(again.states, TRUTH.numpy())


def test_the_key_tells_apart_all_that_matters() -> None:
    base = ("w", "p", (0, 2), "float16", "items")
    others = [
        ("x", *base[1:]),
        ("w", "q", *base[2:]),
        ("w", "p", (0, 1), "float16", "items"),
        ("w", "p", (0, 2), "float32", "items"),
        ("w", "p", (0, 2), "float16", "more"),
    ]
    assert len({cache_key(*key) for key in [base, *others]}) == 6
