"""The matrix: all settings of a run, their validation, and the TOML text that a run folder keeps of them."""

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
from bench.config.validation_messages import DEVICE, MATRIX_NAME, METHOD_NAME, KeyPath, explain, requirement
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
    """A method of the matrix.

    Attributes:
        name: name in tables and in cell ids.
        kind: registered method that it runs; the name itself if the matrix file gives no kind.
        options: option -> value; options that are left out have the defaults of the kind.
    """

    name: Annotated[str, Field(pattern=METHOD_NAME)]
    kind: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MethodFile:
    """Python file with methods of the user's, and the checksum of its content when it was run."""

    path: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Matrix:
    """All settings of a run.

    ``profile``, ``checkpoint_every`` and ``save_adapters`` do not change a measurement, so cell ids do not depend on
    them.

    Attributes:
        profile: steps of every cell to trace, after its measurement.
        checkpoint_every: epochs between two checkpoints of a cell.
        save_adapters: True if cells save their trained weights in ``adapter/``.
        method_files: files that define methods which are not built in (``bench.config.method_files``).
        tuning: trials and costs of the search that chose the methods' options; None without a search.
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
    """Names of the shipped presets, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a matrix file, without validating its keys.

    Raises:
        UserError: the file is missing, not UTF-8, or not TOML; the message names the file and, if known, the line.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise UserError(f"{path}: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or Python's error for a number with thousands of digits
        raise UserError(f"{path}: {error}") from error


def read_preset(name: str, in_files: bool = False) -> dict[str, Any]:
    """Reads a preset by name, with the presets that it extends.

    Args:
        in_files: True if the data are in files: learning rates and encoders of the generated shop do not fit then.

    Raises:
        UserError: there is no preset of this name.
    """
    if name not in preset_names():
        raise UserError(f"--preset {name}: unknown preset{did_you_mean(name, preset_names())}")
    recipe = read_toml(PRESETS / f"{name}.toml")
    return extended(recipe, f"preset {name}", lambda base: read_preset(base, in_files), in_files)


def check_shape(data: dict[str, Any], origin: str) -> None:
    """Checks that the tables of a matrix file are tables, before options are merged into them.

    Raises:
        UserError: a key holds something else; the message names the key.
    """
    for key in ("dataset", "budget", "training"):
        if not isinstance(data.get(key, {}), dict):
            raise UserError(f"{origin}: {key} must be a table: [{key}]")
    for key, hint in (("methods", ", each with a name"), ("backbones", "")):
        tables = data.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise UserError(f"{origin}: {key} must be tables: [[{key}]]{hint}")


def parse(
    data: dict[str, Any], origin: str, options: Mapping[KeyPath, str] | None = None, needs_data: bool = True
) -> Matrix:
    """Validates a matrix.

    Args:
        data: content of a matrix file, with the command-line values already merged into it.
        origin: file or preset that error messages name.
        options: key path -> command-line option that set it; error messages name the option.
        needs_data: True if a dataset in files must name its folder.

    Raises:
        UserError: the matrix is invalid; the message is one line on the first error.
    """
    check_shape(data, origin)
    data = dict(data)
    data["methods"] = [_method_table(m, origin) for m in data.get("methods", [])]
    for key in ("modality", "seeds"):
        if key in data and not isinstance(data[key], list | tuple):
            data[key] = [data[key]]
    if "dataset" in data:
        data["dataset"] = _with_split_times_as_text(data["dataset"])
    matrix = _valid(Matrix, data, origin, options or {})
    _check_dataset(matrix.dataset, origin, needs_data)
    _check_across_fields(matrix, origin)
    return matrix


def parse_dataset(table: dict[str, Any], options: Mapping[KeyPath, str]) -> DatasetConfig:
    """Validates the table of a dataset without a matrix.

    Args:
        table: keys and values as in ``[dataset]`` of a matrix file.
        options: key path within the dataset -> command-line option that set it.

    Raises:
        UserError: the table is invalid; the message is one line on the first error.
    """
    dataset = _valid(DatasetConfig, _with_split_times_as_text(table), "data", options)
    _check_dataset(dataset, "data")
    return dataset


def _valid(schema: type[Schema], data: dict[str, Any], origin: str, options: Mapping[KeyPath, str]) -> Schema:
    """Validates data in pydantic's strict mode, where "0" is no number.

    The data go through JSON, because only there strict mode takes lists for tuples and tables for dataclasses.
    """
    try:
        return TypeAdapter(schema).validate_json(_json(data), strict=True)
    except ValidationError as error:
        raise UserError(explain(error, schema, origin, options)) from error
    except TypeError as error:
        raise UserError(f"{origin}: {error}") from None


def _with_split_times_as_text(table: dict[str, Any]) -> dict[str, Any]:
    """A dataset's table with the times of its split as text: TOML may give them as text, numbers or dates."""
    times: dict[str, Any] = {key: _time_as_text(table[key]) for key in ("valid_from", "test_from") if key in table}
    return {**table, **times}


def _time_as_text(value: object) -> object:
    if isinstance(value, date):  # a datetime is a date, too
        return value.isoformat()
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _json(value: Any) -> str:
    """A value from TOML as JSON text; TypeError for a date or a time, which no key takes."""

    def refuse(value: Any) -> str:
        raise TypeError(f"no key takes a date or a time, got {value}")

    return json.dumps(value, default=refuse)


def _method_table(table: dict[str, Any], origin: str) -> dict[str, Any]:
    name = table.get("name")
    if not isinstance(name, str):
        raise UserError(f"{origin}: [[methods]] needs a name")
    # A key that is the name of a kind, as in peft = { type = "IA3" }, gives the kind if the method's name does not.
    kind = table.get("kind", name if name in known() else next((key for key in table if key in known()), name))
    if not isinstance(kind, str) or kind not in known():
        raise UserError(f"{origin}: unknown method {kind!r}{did_you_mean(str(kind), known())}")
    options = table.get("options", {k: v for k, v in table.items() if k not in ("name", "kind")})
    if not isinstance(options, dict):
        raise UserError(f"{origin}: method {name}: options must be a table")
    return {"name": name, "kind": kind, "options": {**known()[kind].preset, **options}}


def _check_across_fields(matrix: Matrix, origin: str) -> None:
    """Checks that the budget has one unit and that no seed, method, modality or pair of backbones is given twice."""
    budget = matrix.budget
    if sum(x is not None for x in (budget.epochs, budget.steps, budget.seconds)) != 1:
        raise UserError(f"{origin}: [budget] needs exactly one of epochs, steps and seconds")
    for key, values in (
        ("seeds", matrix.seeds),
        ("methods", [m.name for m in matrix.methods]),
        ("modality", matrix.modality),
        (
            "backbones",
            [", ".join(filter(None, (f"{b.text} + {b.image}", b.weights, b.quantise))) for b in matrix.backbones],
        ),
    ):
        if len(set(values)) < len(values):
            raise UserError(f"{origin}: {key}: given twice: {next(v for v in values if list(values).count(v) > 1)}")


def _check_dataset(dataset: DatasetConfig, origin: str, needs_data: bool = True) -> None:
    """Checks that a dataset in files names its folder, and that keys on columns and times fit its kind and split."""
    kind = KINDS[dataset.name]
    if needs_data and kind.in_files and not dataset.data_dir:
        raise UserError(f"{origin}: dataset {dataset.name} needs --data-dir DIR")
    named = [role for role, name in vars(dataset.columns).items() if name is not None]
    if named and not kind.has_columns:
        raise UserError(f"{origin}: --{named[0]}-column: dataset {dataset.name} has no columns to name")
    if dataset.min_rating is not None and not kind.has_columns:
        raise UserError(f"{origin}: --min-rating: dataset {dataset.name} has no ratings")
    if dataset.columns.rating is not None and dataset.min_rating is None:
        raise UserError(f"{origin}: --rating-column: needs --min-rating")
    times = {"--valid-from": dataset.valid_from, "--test-from": dataset.test_from}
    given = [option for option, value in times.items() if value is not None]
    if dataset.split == "leave-one-out":
        if given:
            raise UserError(f"{origin}: {given[0]}: needs --split temporal")
        return
    if not kind.may_have_timestamps:
        others = ", ".join(other.name for other in KINDS.values() if other.may_have_timestamps)
        raise UserError(f"{origin}: --split temporal: dataset {dataset.name} has no timestamps; {others} may have them")
    if len(given) < len(times):
        raise UserError(f"{origin}: --split temporal: needs --valid-from and --test-from")


def build_method(config: MethodConfig, origin: str) -> Any:
    """Instance of the method's class, with its options checked against the fields of the class.

    Args:
        origin: file or preset that error messages name.

    Raises:
        UserError: an option is unknown or its value invalid; the message names the method and the option.
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
            raise UserError(f"{where}: option {option}: {requirement(error.errors()[0], value)}") from error
        except TypeError as error:
            raise UserError(f"{where}: option {option}: {error}") from None
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def to_dict(matrix: Matrix) -> dict[str, Any]:
    """The matrix as dicts, lists and plain values, without unset keys (TOML has no null)."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if v is not None}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        return value

    cleaned: dict[str, Any] = clean(dataclasses.asdict(matrix))
    return cleaned


def to_toml(matrix: Matrix) -> str:
    """The resolved matrix as TOML text; parsing the text gives an equal matrix."""
    return tomli_w.dumps(to_dict(matrix))
