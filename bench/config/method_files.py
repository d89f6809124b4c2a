"""Methods of one's own in a matrix: their files are run before it is read, and recorded with what stood in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.matrix import MethodFile
from bench.utils.errors import UserError
from methods.loading import Loaded, load_file


@dataclass(frozen=True)
class Own:
    """What was loaded.

    Attributes:
        listed: of the matrix file, each once.
        given: of the command line, without those that the matrix file lists.
    """

    listed: tuple[Loaded, ...]
    given: tuple[Loaded, ...]

    def tables(self) -> list[dict[str, str]]:
        """As they stand in the resolved matrix."""
        return [{"path": str(file.path), "sha256": file.sha256} for file in (*self.listed, *self.given)]


def load(listed: Any, given: Sequence[Path], recipe: Path | None) -> Own:
    """Runs the files that a recipe lists under ``method_files`` and those of the command line.

    Args:
        listed: paths, relative to the recipe's folder, or tables of path and sha256 as a resolved matrix has them.
        recipe: the matrix file; None for a shipped one.

    Raises:
        UserError: anything wrong with a file, or content that is not what a table says.
    """
    base = Path() if recipe is None else recipe.parent
    found: dict[Path, Loaded] = {}
    for entry in _entries(listed, recipe):
        path = (base / entry["path"]).absolute()
        found[path] = load_file(path, entry.get("sha256"))
    more = {path.absolute(): None for path in given}
    return Own(tuple(found.values()), tuple(load_file(path) for path in more if path not in found))


def load_recorded(file: MethodFile) -> None:
    """Runs a file whose content must be the recorded one.

    Raises:
        UserError: anything wrong with it, or other content.
    """
    load_file(Path(file.path), file.sha256)


def _entries(listed: Any, recipe: Path | None) -> Iterable[dict[str, str]]:
    if listed is None:
        return
    entries = listed if isinstance(listed, list) else [None]
    for entry in entries:
        table = {"path": entry} if isinstance(entry, str) else entry
        if not (isinstance(table, dict) and {"path"} <= set(table) <= {"path", "sha256"}):
            raise UserError(f'{recipe}: method_files: expected a list of files, such as ["my.py"]')
        if not all(isinstance(value, str) for value in table.values()):
            raise UserError(f"{recipe}: method_files: path and sha256 are texts")
        yield table
