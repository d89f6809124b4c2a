import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.data.cache.array_cache import _free_bytes
from bench.data.cache.array_file import Layout
from bench.models.hidden_states import TENSOR, cache_key, open_or_build
from bench.utils.errors import UserError

SHAPE = (600, 3, 8)
TRUTH = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def compute(rows: np.ndarray) -> torch.Tensor:
    return TRUTH[torch.from_numpy(rows)]


def never(rows: np.ndarray) -> torch.Tensor:
    pytest.fail("built although it was there")


def test_build_then_serve(tmp_path: Path) -> None:
    built = open_or_build(tmp_path, Layout("k", TENSOR, SHAPE, "float32"), compute)
    assert not built.reused
    assert np.array_equal(built.states, TRUTH.numpy())
    served = open_or_build(tmp_path, Layout("k", TENSOR, SHAPE, "float32"), never)
    assert served.reused
    assert served.seconds == pytest.approx(built.seconds, abs=1e-6)
    assert served.size == built.size == (tmp_path / "k.safetensors").stat().st_size
    assert np.array_equal(served.states, TRUTH.numpy())


def test_16_bit_is_half_the_bytes_and_rounds(tmp_path: Path) -> None:
    half = open_or_build(tmp_path, Layout("h", TENSOR, SHAPE, "float16"), compute)
    whole = open_or_build(tmp_path, Layout("w", TENSOR, SHAPE, "float32"), compute)
    header = half.size - np.prod(SHAPE) * 2
    assert whole.size - header == 2 * (half.size - header)
    assert np.array_equal(half.states, TRUTH.numpy().astype(np.float16))
    assert np.abs(np.asarray(half.states, dtype=np.float32) - TRUTH.numpy()).max() <= np.abs(TRUTH).max() * 2**-11


def test_what_does_not_fit_into_16_bit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit into 16 bit"):
        open_or_build(tmp_path / "hidden", Layout("k", TENSOR, SHAPE, "float16"), lambda rows: compute(rows) * 1e6)
    assert not list((tmp_path / "hidden").iterdir())


@pytest.mark.parametrize("other", [((600, 3, 8), "float16"), ((600, 4, 6), "float32"), ((599, 3, 8), "float32")])
def test_an_array_of_another_kind_is_built_again(other: tuple[tuple[int, int, int], str], tmp_path: Path) -> None:
    shape, dtype = other
    open_or_build(tmp_path, Layout("k", TENSOR, shape, dtype), lambda rows: torch.zeros(len(rows), *shape[1:]))
    again = open_or_build(tmp_path, Layout("k", TENSOR, SHAPE, "float32"), compute)
    assert not again.reused
    assert "k.safetensors: holds another array than its name says; built again" in again.warning
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


# Bounded memory

LARGE = """
import sys, time
from pathlib import Path
import numpy as np, torch
from bench.models.inputs import ItemFeed
from bench.data.cache.array_file import Layout
from bench.models.hidden_states import TENSOR, open_or_build
from bench.measure.host import peak_rss_bytes

torch.set_num_threads(1)
ITEMS, FOLDER = 200_000, Path(sys.argv[1])
pattern = (torch.arange(7 * 768).view(7, 768) % 1024).float()

def values(rows):
    return (torch.from_numpy(rows) % 1024).float()[:, None, None] + pattern

started = time.perf_counter()
built = open_or_build(FOLDER, Layout("k" * 32, TENSOR, (ITEMS, 7, 768), "float16"), values)
print("built", time.perf_counter() - started, flush=True)
del built
started = time.perf_counter()
served = open_or_build(FOLDER, Layout("k" * 32, TENSOR, (ITEMS, 7, 768), "float16"), None)
print("opened", time.perf_counter() - started, flush=True)
assert served.reused
started = time.perf_counter()
feed = ItemFeed(arrays={"states": served.states})
for rows in np.array_split(np.random.default_rng(0).permutation(ITEMS), 250):
    got = feed.gather(rows)["states"]
    assert got.dtype == torch.float16 and got.shape == (len(rows), 7, 768)
    assert torch.equal(got[::100].float(), values(rows[::100]))
print("read", time.perf_counter() - started)
print("peak", peak_rss_bytes())
"""


@pytest.mark.slow
@pytest.mark.slow
def test_two_gigabytes_are_built_and_read_in_bounded_memory(tmp_path: Path) -> None:
    size = 200_000 * 7 * 768 * 2
    if _free_bytes(tmp_path) < 2 * size:
        pytest.skip("the disk has less than 4.3 GB free")
    code = [sys.executable, "-c", LARGE, str(tmp_path / "hidden")]
    started = time.perf_counter()
    done = subprocess.run(code, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    print(said, time.perf_counter() - started)
    assert (tmp_path / "hidden" / f"{'k' * 32}.safetensors").stat().st_size > size
    (tmp_path / "hidden" / f"{'k' * 32}.safetensors").unlink()
    assert int(said["peak"]) < 1.5 * 2**30
