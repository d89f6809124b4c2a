"""A small Amazon catalogue, and damage to its files."""

from collections.abc import Callable, Mapping, Sequence
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


def write_amazon(folder: Path, titles: Mapping[str, str], users: Mapping[str, Sequence[str]]) -> Path:
    """Write a folder of Amazon data and give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    items = "".join(f"{item}\t{title}\n" for item, title in titles.items())
    (folder / "x_items.tsv").write_text(items, encoding="utf-8", newline="\n")
    lines = "".join(f"{user}\t{' '.join(sequence)}\n" for user, sequence in users.items())
    (folder / "x_users.tsv").write_text(lines, encoding="utf-8", newline="\n")
    return folder
