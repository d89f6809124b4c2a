"""Method files of a matrix: Python files with methods of the user's, run before the matrix is validated.

The resolved matrix records the path and the checksum of each file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.matrix import MethodFile
from bench.utils.errors import UserError
from methods.loading import Loaded, load_file


@dataclass(frozen=True)
class LoadedMethodFiles:
    """Method files that were run.

    Attributes:
        from_recipe: files that the matrix file lists, each once.
        from_command_line: files of ``--method-file`` that the matrix file does not list.
    """

    from_recipe: tuple[Loaded, ...]
    from_command_line: tuple[Loaded, ...]

    def tables(self) -> list[dict[str, str]]:
        """Path and checksum of each file, as in the resolved matrix."""
        return [
            {"path": str(file.path), "sha256": file.sha256} for file in (*self.from_recipe, *self.from_command_line)
        ]


def load_method_files(listed: Any, given: Sequence[Path], recipe: Path | None) -> LoadedMethodFiles:
    """Runs the files that a recipe lists under ``method_files`` and the files of the command line.

    Args:
        listed: value of ``method_files``: paths relative to the recipe's folder, or tables of path and sha256 as in a
            resolved matrix.
        given: files of ``--method-file``.
        recipe: the matrix file; None for a preset.

    Raises:
        UserError: a file cannot be run, or its content does not match its sha256.
    """
    base = Path() if recipe is None else recipe.parent
    loaded: dict[Path, Loaded] = {}
    for entry in _entries(listed, recipe):
        path = (base / entry["path"]).absolute()
        loaded[path] = load_file(path, entry.get("sha256"))
    further = {path.absolute(): None for path in given}
    return LoadedMethodFiles(tuple(loaded.values()), tuple(load_file(path) for path in further if path not in loaded))


def load_recorded(file: MethodFile) -> None:
    """Runs a method file whose checksum is in the matrix.

    Raises:
        UserError: the file cannot be run, or its content does not match the checksum.
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
            raise UserError(f"{recipe}: method_files: path and sha256 must be text")
        yield table
