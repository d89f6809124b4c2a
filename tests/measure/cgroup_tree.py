"""A control group hierarchy in a temporary folder."""

from __future__ import annotations

from pathlib import Path


def tree(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    root = folder / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    member = folder / "self"
    member.write_text(membership)
    return root, member
