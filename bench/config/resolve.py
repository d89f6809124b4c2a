"""Resolves a recipe (preset or matrix file) and command-line options into one matrix per dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.applicable import check_applicable
from bench.config.matrix import Matrix, check_shape, parse, read_preset, read_toml
from bench.config.method_files import LoadedMethodFiles, load_method_files
from bench.config.recipes import BUDGETS, expand_datasets, extended
from bench.config.validation_messages import KeyPath
from bench.data.kinds import GENERATED
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean
from methods.registry import known

DATA_DIR: KeyPath = ("dataset", "data_dir")
# Options that choose datasets; they replace the recipe's list of datasets.
_CHOOSES_DATASET: tuple[KeyPath, ...] = (("dataset", "name"), ("dataset", "seed"), DATA_DIR)
# Options on encoders that apply to every pair of a recipe; with any other option on encoders one pair is left.
_FOR_EVERY_PAIR = ("trust_remote_code", "quantise")


@dataclass(frozen=True)
class Request:
    """A recipe and the options that change it.

    Attributes:
        preset: name of a preset; None for ``default``, or ``amazon`` if the data are in files.
        config: matrix file that is used instead of a preset.
        methods: names of the methods to run; None for all methods of the recipe.
        method_files: Python files whose methods run in addition to the recipe's methods.
        hidden_states: "live" or "cached", for every method that reads only hidden states; None for the recipe's
            setting.
        values: key path in the matrix -> value. The value of the data folder is a list; each folder in it becomes a
            matrix.
        flags: key path -> command-line option that set it, for error messages.
    """

    preset: str | None = None
    config: Path | None = None
    methods: Sequence[str] | None = None
    method_files: Sequence[Path] = ()
    hidden_states: str | None = None
    values: Mapping[KeyPath, Any] = field(default_factory=dict)
    flags: Mapping[KeyPath, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """The matrices of a request.

    Attributes:
        name: name of the recipe.
        matrices: one matrix per dataset, at least one, each with its own name.
        origin: file or preset that error messages name.
    """

    name: str
    matrices: tuple[Matrix, ...]
    origin: str


def resolve(request: Request, needs_data: bool = True) -> Resolved:
    """Merges the options of a request into its recipe and validates the matrix of each dataset.

    Args:
        needs_data: True if a dataset in files must name its folder.

    Raises:
        UserError: the result is invalid; the message is one line that names the option, or the file and the key.
    """
    data, origin = _read(request)
    files = load_method_files(data.pop("method_files", None), request.method_files, request.config)
    _add_method_files(data, files)
    values = dict(request.values)
    if any(path in values for path in _CHOOSES_DATASET):
        data.pop("datasets", None)
    folders = values.pop(DATA_DIR, [])
    if len(folders) == 1:
        values[DATA_DIR] = folders[0]
    elif folders:
        data["datasets"] = [{"data_dir": folder} for folder in folders]
    if any(path[0] == "budget" and path[1] in BUDGETS for path in values):
        data["budget"] = {key: value for key, value in data.get("budget", {}).items() if key not in BUDGETS}
    for path, value in values.items():
        if path[0] != "backbones":
            _set_value(data, path, value)
    _set_encoders(data, {str(path[2]): value for path, value in values.items() if path[0] == "backbones"})
    if request.methods is not None:
        data["methods"] = _select_methods(data.get("methods", []), request.methods)
    if request.hidden_states is not None:
        data["methods"] = [_with_hidden_states(table, request.hidden_states) for table in data.get("methods", [])]
    matrices = tuple(parse(recipe, origin, request.flags, needs_data) for recipe in expand_datasets(data, origin))
    for matrix in matrices:
        check_applicable(matrix, request.flags)
    return Resolved(str(data.get("name")), matrices, origin)


def _read(request: Request) -> tuple[dict[str, Any], str]:
    """The recipe before options are merged into it, and its name in error messages."""
    dataset = request.values.get(("dataset", "name"))
    in_files = dataset not in (None, GENERATED)
    if request.config is not None:
        data, origin = read_toml(request.config), str(request.config)
        check_shape(data, origin)
        in_files = in_files or data.get("dataset", {}).get("name", GENERATED) != GENERATED
        return extended(data, origin, lambda base: read_preset(base, in_files), in_files), origin
    preset = request.preset or ("amazon" if in_files else "default")
    data = read_preset(preset, in_files)
    if in_files and request.preset is None:
        data["name"] = dataset
    return data, f"preset {preset}"


def _add_method_files(data: dict[str, Any], files: LoadedMethodFiles) -> None:
    """Records method files in a recipe and adds the methods of the command line's files to its methods."""
    if tables := files.tables():
        data["method_files"] = tables
    methods = data.get("methods")
    if not isinstance(methods, list):
        return  # parse() reports the error
    present = {table.get("name") for table in methods if isinstance(table, dict)}
    names = (name for file in files.from_command_line for name in file.names)
    data["methods"] = [*methods, *({"name": name} for name in names if name not in present)]


def _set_value(data: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Sets the value at a key path; tables on the path are copied, because other recipes may share them."""
    *tables, key = map(str, path)
    for table in tables:
        data[table] = dict(data.get(table, {}))
        data = data[table]
    data[key] = value


def _set_encoders(data: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Sets keys of the encoders: in every pair of the recipe, or in its first pair alone if they name an encoder."""
    if not values:
        return
    pairs = data.get("backbones") or [{}]
    if set(values) - set(_FOR_EVERY_PAIR):
        pairs = pairs[:1]
    data["backbones"] = [{**pair, **values} for pair in pairs]


def _with_hidden_states(table: dict[str, Any], hidden_states: str) -> dict[str, Any]:
    """A method's table with ``cached`` set, if the method reads only hidden states; other tables are unchanged."""
    from methods.base import HiddenMethod, method_class

    kind = str(table.get("kind", table.get("name")))
    if kind not in known() or not issubclass(method_class(kind), HiddenMethod):
        return table
    return {**table, "cached": hidden_states == "cached"}


def _select_methods(tables: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Tables of the named methods; a method that the recipe does not have gets its default options."""
    by_name = {str(table.get("name")): table for table in tables}
    for name in names:
        if name not in by_name and name not in known():
            raise UserError(f"--methods: unknown method {name!r}{did_you_mean(name, {*by_name, *known()})}")
        if list(names).count(name) > 1:
            raise UserError(f"--methods: {name} is given twice")
    return [by_name.get(name, {"name": name}) for name in names]
