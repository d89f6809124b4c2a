"""From a recipe and command-line options to the matrix of each dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.config.applicable import check_applicable
from bench.config.matrix import Matrix, check_shape, parse, read_preset, read_toml
from bench.config.method_files import Own
from bench.config.method_files import load as load_method_files
from bench.config.recipes import BUDGETS, extended, over_datasets
from bench.config.validation_messages import KeyPath
from bench.data.kinds import GENERATED
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean
from methods.registry import known

DATA_DIR: KeyPath = ("dataset", "data_dir")
# Options that name datasets replace the list of datasets in a recipe.
_NAMES_DATASET: tuple[KeyPath, ...] = (("dataset", "name"), ("dataset", "seed"), DATA_DIR)
# Options on encoders that hold for every pair of a recipe; the others describe one pair.
_EVERY_PAIR = ("trust_remote_code", "quantise")


@dataclass(frozen=True)
class Request:
    """A recipe and what goes over it.

    Attributes:
        preset: name of a shipped recipe; None for the default one.
        config: a matrix file instead of a preset.
        methods: names of the methods to run; None for those of the recipe.
        method_files: files with methods of one's own, run beside those of the recipe.
        hidden_states: "live" or "cached" for every method that reads hidden states alone; None as the recipe says.
        values: key path in the matrix -> value. The folder of the data is a list; several give one matrix each.
        flags: key path -> command-line option that set it; messages name the option.
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
        matrices: one per dataset, at least one, each with its own name.
        origin: file or preset, for messages.
    """

    name: str
    matrices: tuple[Matrix, ...]
    origin: str


def resolve(request: Request, needs_data: bool = True) -> Resolved:
    """Lays the options of a request over its recipe and validates the result, for each dataset.

    Args:
        request: as the command line asks for.
        needs_data: whether a dataset in files must say where its files are.

    Raises:
        UserError: the first thing wrong, in one line that names the option, or the file and the key.
    """
    data, origin = _read(request)
    own = load_method_files(data.pop("method_files", None), request.method_files, request.config)
    _add_method_files(data, own)
    values = dict(request.values)
    if any(place in values for place in _NAMES_DATASET):
        data.pop("datasets", None)
    folders = values.pop(DATA_DIR, [])
    if len(folders) == 1:
        values[DATA_DIR] = folders[0]
    elif folders:
        data["datasets"] = [{"data_dir": folder} for folder in folders]
    if any(place[0] == "budget" and place[1] in BUDGETS for place in values):
        data["budget"] = {key: value for key, value in data.get("budget", {}).items() if key not in BUDGETS}
    for place, value in values.items():
        if place[0] != "backbones":
            _put(data, place, value)
    _put_encoders(data, {str(place[2]): value for place, value in values.items() if place[0] == "backbones"})
    if request.methods is not None:
        data["methods"] = _chosen(data.get("methods", []), request.methods)
    if request.hidden_states is not None:
        data["methods"] = [_served(table, request.hidden_states) for table in data.get("methods", [])]
    matrices = tuple(parse(recipe, origin, request.flags, needs_data) for recipe in over_datasets(data, origin))
    for matrix in matrices:
        check_applicable(matrix, request.flags)
    return Resolved(str(data.get("name")), matrices, origin)


def _read(request: Request) -> tuple[dict[str, Any], str]:
    """The recipe without the options, and its name in messages."""
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


def _add_method_files(data: dict[str, Any], own: Own) -> None:
    """Records the files; methods of command-line files run beside those that the recipe names already."""
    if tables := own.tables():
        data["method_files"] = tables
    methods = data.get("methods")
    if not isinstance(methods, list):
        return  # parse() reports it
    there = {table.get("name") for table in methods if isinstance(table, dict)}
    data["methods"] = [*methods, *({"name": name} for file in own.given for name in file.names if name not in there)]


def _put(data: dict[str, Any], place: KeyPath, value: Any) -> None:
    """Sets a value; tables on the way are copied, because the recipe may be used again."""
    *tables, key = map(str, place)
    for table in tables:
        data[table] = dict(data.get(table, {}))
        data = data[table]
    data[key] = value


def _put_encoders(data: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Options that name an encoder or its weights leave one pair; the others go over every pair of the recipe."""
    if not values:
        return
    pairs = data.get("backbones") or [{}]
    if set(values) - set(_EVERY_PAIR):
        pairs = pairs[:1]
    data["backbones"] = [{**pair, **values} for pair in pairs]


def _served(table: dict[str, Any], hidden_states: str) -> dict[str, Any]:
    """A method that reads hidden states alone gets them live or from the cache; other methods stay as they are."""
    from methods.base import HiddenMethod, method_class

    kind = str(table.get("kind", table.get("name")))
    if kind not in known() or not issubclass(method_class(kind), HiddenMethod):
        return table
    return {**table, "cached": hidden_states == "cached"}


def _chosen(tables: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """The named methods, with the recipe's options where it has them and defaults otherwise."""
    named = {str(table.get("name")): table for table in tables}
    for name in names:
        if name not in named and name not in known():
            raise UserError(f"--methods: unknown method {name!r}{did_you_mean(name, {*named, *known()})}")
        if list(names).count(name) > 1:
            raise UserError(f"--methods: {name} is given twice")
    return [named.get(name, {"name": name}) for name in names]
