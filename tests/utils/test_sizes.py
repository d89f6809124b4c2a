import pytest

from bench.utils.errors import UserError
from bench.utils.sizes import parse_size, readable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 * 2**30),
        ("24 GB", 24 * 10**9),
        ("24gb", 24 * 10**9),
        ("500MiB", 500 * 2**20),
        ("1.5kB", 1500),
        ("1TiB", 2**40),
        ("123", 123),
        ("123B", 123),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--fit") == size


def test_sizes_are_readable() -> None:
    assert [readable(n) for n in (0, 999, 1000, 45_593_070_344, 3_500_000_000_000)] == [
        "0 B",
        "999 B",
        "1 kB",
        "45.59 GB",
        "3.5 TB",
    ]


@pytest.mark.parametrize("text", ["0", "-1", "0.0001", "x", "24 XB", "", "1e400", "9" * 400])
def test_no_size(text: str) -> None:
    with pytest.raises(UserError, match="--fit"):
        parse_size(text, "--fit")
