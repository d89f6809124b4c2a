"""The matrix: what to run. Frozen, validated here and nowhere else, written back resolved into the run folder."""

from __future__ import annotations

import dataclasses
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import field
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.config.recipes import extended
from bench.config.validation_messages import DEVICE, MATRIX_NAME, METHOD_NAME, KeyPath, explain, say
from bench.data.config import DatasetConfig
from bench.data.kinds import KINDS
from bench.models.config import Backbones
from bench.records.tuned import Tuned
from bench.training.config import BudgetConfig, TrainingConfig
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean
from methods.registry import known

PRESETS = Path(__file__).parent / "presets"

Modality = Literal["text+image", "text", "image"]
Precision = Literal["fp32", "bf16", "fp16"]


Schema = TypeVar("Schema")


@dataclass(frozen=True, config=ConfigDict(extra="allow", arbitrary_types_allowed=True))
class MethodConfig:
    """One method of the table: a name, what kind it is (the name itself unless told), and its options."""

    name: Annotated[str, Field(pattern=METHOD_NAME)]
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MethodFile:
    """A file with methods of one's own that was run, and what stood in it."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Matrix:
    """Everything that a run needs to know.

    Attributes:
        profile: steps of every cell to trace, after its measurement; no part of what a cell is.
        checkpoint_every: epochs from one checkpoint of a cell to the next; no part of what a cell is either.
        save_adapters: whether cells leave what they trained in ``adapter/``; no part of what a cell is.
        method_files: where methods that are not built in come from (``bench.config.method_files``).
        tuning: how the methods' options were found, if by ``tune``.
    """

    name: Annotated[str, Field(pattern=MATRIX_NAME)]
    methods: Annotated[tuple[MethodConfig, ...], Field(min_length=1)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = (0,)
    modality: Annotated[tuple[Modality, ...], Field(min_length=1)] = ("text+image",)
    device: Annotated[str, Field(pattern=DEVICE)] = "auto"
    precision: Precision = "fp32"
    dataset: DatasetConfig = DatasetConfig()
    backbones: Annotated[tuple[Backbones, ...], Field(min_length=1)] = (Backbones(),)
    budget: BudgetConfig = BudgetConfig(epochs=3)
    training: TrainingConfig = TrainingConfig()
    profile: Annotated[int, Field(ge=1, le=100)] | None = None
    checkpoint_every: Annotated[int, Field(ge=1, le=10_000)] | None = None
    save_adapters: bool = False
    method_files: tuple[MethodFile, ...] | None = None
    tuning: tuple[Tuned, ...] | None = None


def preset_names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a matrix file.

    Raises:
        UserError: not there, not UTF-8, or not TOML, with the file and, where known, the line.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what Python says to a number of thousands of digits
        raise UserError(f"{path}: {error}") from error


def read_preset(name: str, in_files: bool = False) -> dict[str, Any]:
    """Reads a shipped recipe by name, whole.

    Args:
        in_files: the data are, so that learning rates and encoders of the generated shop do not fit.
    """
    if name not in preset_names():
        raise UserError(f"--preset {name}: unknown preset{did_you_mean(name, preset_names())}")
    recipe = read_toml(PRESETS / f"{name}.toml")
    return extended(recipe, f"preset {name}", lambda base: read_preset(base, in_files), in_files)


def check_shape(data: dict[str, Any], origin: str) -> None:
    """Tables must be tables before anything is laid over them.

    Raises:
        UserError: names the key.
    """
    for key in ("dataset", "budget", "training"):
        if not isinstance(data.get(key, {}), dict):
            raise UserError(f"{origin}: {key} must be a table: [{key}]")
    for key, needed in (("methods", " with a name each"), ("backbones", "")):
        tables = data.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UserError(f"{origin}: {key} must be tables: [[{key}]]{needed}")


def parse(
    data: dict[str, Any], origin: str, options: Mapping[KeyPath, str] | None = None, needs_data: bool = True
) -> Matrix:
    """Validates a matrix.

    Args:
        data: as read from TOML, command-line values already laid over it.
        origin: file or preset that messages name.
        options: key path -> command-line option that set it; messages name the option then.
        needs_data: whether a dataset must say where it lies.

    Raises:
        UserError: the first thing wrong, in one line.
    """
    check_shape(data, origin)
    data = dict(data)
    data["methods"] = [_method_table(m, origin) for m in data.get("methods", [])]
    for key in ("modality", "seeds"):
        if key in data and not isinstance(data[key], list | tuple):
            data[key] = [data[key]]
    if "dataset" in data:
        data["dataset"] = _with_moments(data["dataset"])
    matrix = _valid(Matrix, data, origin, options or {})
    _check_dataset(matrix.dataset, origin, needs_data)
    return _checked(matrix, origin)


def parse_dataset(table: dict[str, Any], options: Mapping[KeyPath, str]) -> DatasetConfig:
    """Validates a dataset by itself.

    Args:
        options: key path within the dataset -> command-line option that set it.

    Raises:
        UserError: the first thing wrong, in one line.
    """
    dataset = _valid(DatasetConfig, _with_moments(table), "data", options)
    _check_dataset(dataset, "data")
    return dataset


def _valid(schema: type[Schema], data: dict[str, Any], origin: str, options: Mapping[KeyPath, str]) -> Schema:
    """As JSON, where pydantic's strict mode takes lists for tuples and tables for dataclasses, and "0" is no number."""
    try:
        return TypeAdapter(schema).validate_json(_json(data), strict=True)
    except ValidationError as error:
        raise UserError(explain(error, schema, origin, options)) from error
    except TypeError as error:
        raise UserError(f"{origin}: {error}") from None


def _with_moments(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has numbers and dates of its own; what they stand for depends on the data."""
    moments: dict[str, Any] = {key: _moment(table[key]) for key in ("valid_from", "test_from") if key in table}
    return {**table, **moments}


def _moment(value: object) -> object:
    if isinstance(value, date):  # a datetime is one too
        return value.isoformat()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _json(value: Any) -> str:
    """Raises TypeError for what TOML has and no key wants: dates and times."""

    def refuse(found: Any) -> str:
        raise TypeError(f"no key takes a date or a time, got {found}")

    return json.dumps(value, default=refuse)


def _method_table(table: dict[str, Any], origin: str) -> dict[str, Any]:
    name = table.get("name")
    if not isinstance(name, str):
        raise UserError(f"{origin}: [[methods]] needs a name")
    # A table named like a kind, as in peft = { type = "IA3" }, says the kind of a method whose name is its own.
    kind = table.get("kind", name if name in known() else next((key for key in table if key in known()), name))
    if not isinstance(kind, str) or kind not in known():
        raise UserError(f"{origin}: unknown method {kind!r}{did_you_mean(str(kind), known())}")
    options = table.get("options", {k: v for k, v in table.items() if k not in ("name", "kind")})
    if not isinstance(options, dict):
        raise UserError(f"{origin}: method {name}: options must be a table")
    return {"name": name, "kind": kind, "options": {**known()[kind].preset, **options}}


def _checked(matrix: Matrix, origin: str) -> Matrix:
    """What a single field cannot know."""
    budget = matrix.budget
    if sum(x is not None for x in (budget.epochs, budget.steps, budget.seconds)) != 1:
        raise UserError(f"{origin}: [budget] needs exactly one of epochs, steps and seconds")
    for what, values in (
        ("seeds", matrix.seeds),
        ("methods", [m.name for m in matrix.methods]),
        ("modality", matrix.modality),
        (
            "backbones",
            [", ".join(filter(None, (f"{b.text} + {b.image}", b.weights, b.quantise))) for b in matrix.backbones],
        ),
    ):
        if len(set(values)) < len(values):
            raise UserError(f"{origin}: {what}: given twice: {next(v for v in values if list(values).count(v) > 1)}")
    return matrix


def _check_dataset(dataset: DatasetConfig, origin: str, needs_data: bool = True) -> None:
    """Options that do not belong to the dataset or to its split."""
    kind = KINDS[dataset.name]
    if needs_data and kind.in_files and not dataset.data_dir:
        raise UserError(f"{origin}: dataset {dataset.name} needs --data-dir DIR")
    named = [role for role, name in vars(dataset.columns).items() if name is not None]
    if named and not kind.has_columns:
        raise UserError(f"{origin}: --{named[0]}-column: dataset {dataset.name} has no columns to name")
    moments = {"--valid-from": dataset.valid_from, "--test-from": dataset.test_from}
    given = [option for option, value in moments.items() if value is not None]
    if dataset.split == "leave-one-out":
        if given:
            raise UserError(f"{origin}: {given[0]}: needs --split temporal")
        return
    if not kind.may_have_timestamps:
        others = ", ".join(other.name for other in KINDS.values() if other.may_have_timestamps)
        raise UserError(f"{origin}: --split temporal: dataset {dataset.name} has no timestamps; {others} may have them")
    if len(given) < len(moments):
        raise UserError(f"{origin}: --split temporal: needs --valid-from and --test-from")


def build_method(config: MethodConfig, origin: str) -> Any:
    """The method with its options checked against the fields of its class.

    Raises:
        UserError: unknown option or wrong value, naming the method and the option.
    """
    from methods.base import method_class

    cls = method_class(config.kind)
    where = f"{origin}: method {config.name}"
    fields = {f.name for f in dataclasses.fields(cls)}
    for option in config.options:
        if option not in fields:
            raise UserError(f"{where}: unknown option {option!r}{did_you_mean(option, fields)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for option, value in config.options.items():
        try:
            values[option] = TypeAdapter(hints[option]).validate_json(_json(value), strict=True)
        except ValidationError as error:
            raise UserError(f"{where}: option {option}: {say(error.errors()[0], value)}") from error
        except TypeError as error:
            raise UserError(f"{where}: option {option}: {error}") from None
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def to_dict(matrix: Matrix) -> dict[str, Any]:
    """As plain values, without what is not set (TOML has no null)."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if v is not None}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return value

    cleaned: dict[str, Any] = clean(dataclasses.asdict(matrix))
    return cleaned


def to_toml(matrix: Matrix) -> str:
    """The resolved matrix; reading it gives the same matrix again."""
    return tomli_w.dumps(to_dict(matrix))
