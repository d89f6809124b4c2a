"""A small Amazon catalogue, and damage to its files."""

from collections.abc import Callable
from pathlib import Path

ITEMS_FILE, USERS_FILE = "x_items.tsv", "x_users.tsv"
ITEMS = [f"B{n:03d}" for n in range(20)]
TITLES = {item: f"Thing {item}" for item in ITEMS}
USERS = {
    "long": ITEMS[:15],  # its first two are older than the last 13
    "twice": ["B003", "B003", "B004", "B003", "B016"],
    "short": ["B017", "B003", "B003", "B018"],
}


def replaced(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        assert content.count(old) == 1
        (folder / name).write_bytes(content.replace(old, new))

    return change
