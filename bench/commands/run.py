"""The ``run`` command: options → matrix → checks → cells → report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.cell.assemble import check_budget, check_network, load_data, raw_feed
from bench.commands import cache_options, data_options
from bench.config.applicable import check_applicable
from bench.config.cells import Cell, cells
from bench.config.matrix import Matrix, build_method, check_shape, parse, read_preset, read_toml, to_toml
from bench.config.method_files import Own
from bench.config.method_files import load as load_method_files
from bench.config.recipes import extended, over_datasets
from bench.config.validation_messages import Path_
from bench.data.datasets import describe, references
from bench.launch import ray_cluster
from bench.launch.local import Launch, run_local, slot_variables
from bench.launch.progress import Reporter
from bench.launch.signals import stoppable
from bench.launch.supervisor import Limits
from bench.measure.environment import capture
from bench.records import run_folder
from bench.records.record import Damaged, write_json
from bench.records.run_folder import first_difference
from bench.utils.errors import UserError
from bench.utils.sizes import parse_size
from bench.utils.text import did_you_mean, printable
from methods.base import HiddenMethod, method_class
from methods.registry import known

# Command-line option -> place in the matrix.
PLACES: dict[str, Path_] = {
    "seeds": ("seeds",),
    "modality": ("modality",),
    "device": ("device",),
    "precision": ("precision",),
    "gradient_checkpointing": ("training", "gradient_checkpointing"),
    "compile": ("training", "compile"),
    "profile": ("profile",),
    "checkpoint_every": ("checkpoint_every",),
    "save_adapters": ("save_adapters",),
    **{option: ("dataset", *place) for option, place in data_options.PLACES.items()},
    "epochs": ("budget", "epochs"),
    "steps": ("budget", "steps"),
    "seconds": ("budget", "seconds"),
    "batch_size": ("budget", "batch_size"),
    "text_model": ("backbones", 0, "text"),
    "image_model": ("backbones", 0, "image"),
    "weights": ("backbones", 0, "weights"),
    "trust_remote_code": ("backbones", 0, "trust_remote_code"),
    "quantise": ("backbones", 0, "quantise"),
}
BUDGETS = ("epochs", "steps", "seconds")


def run(args: argparse.Namespace, command: str) -> int:
    """Runs a matrix; 0 if every cell ended ok, 1 otherwise.

    Raises:
        UserError: for anything wrong with options, files or models, before anything is written.
    """
    variables = cache_options.apply(args)
    resolved = resolve_all(args)
    for method in resolved.matrices[0].methods:
        build_method(method, resolved.origin)
    if args.launcher == "ray" and resolved.matrices[0].save_adapters:
        raise UserError("--save-adapters: not with --launcher ray, which brings records back and no folders")
    launch = Launch(limits(args), args.parallel, args.retry_failed, variables)
    if args.launcher == "local":
        device = resolve_device(resolved.matrices[0].device)
        slot_variables(device, launch.parallel)
        return _run(args, command, resolved, device, partial(run_local, launch=launch))
    with ray_cluster.cluster(args.ray_address) as ray:
        device = ray_cluster.resolve_device(ray, resolved.matrices[0].device)
        return _run(args, command, resolved, device, partial(ray_cluster.run_ray, ray, launch=launch))


@dataclass(frozen=True)
class Prepared:
    """A run whose inputs have been looked at: what goes into which folder."""

    matrix: Matrix
    todo: list[Cell]
    dataset: dict[str, Any]
    out: Path


def _run(args: argparse.Namespace, command: str, resolved: Resolved, device: str, go: Callable[..., None]) -> int:
    cache_options.check_writable()
    todo = [cells(matrix, device) for matrix in resolved.matrices]
    datasets = [check_inputs(own) | {"command": command} for own in todo]
    folders = choose_folders(args.out, resolved, args.fresh)
    runs = [Prepared(*parts) for parts in zip(resolved.matrices, todo, datasets, folders, strict=True)]
    try:
        ended = [_run_one(args, run, device, go) for run in runs]
    finally:
        merged = len(runs) == 1 or finish(folders, folders[0].parent)
    return 0 if all(ended) and merged else 1


def _run_one(args: argparse.Namespace, run: Prepared, device: str, go: Callable[..., None]) -> bool:
    """Whether every cell ended ok and all could be written."""
    out, todo = run.out, run.todo
    with run_folder.locked(out), stoppable():
        open_folder(out, run.matrix, args.fresh)
        describe_in(out, run.dataset, device)
        written = True
        try:
            with Reporter(len(todo)) as reporter:
                go(todo, out, reporter)
        except (UserError, OSError) as error:  # by now no mistake of the user's: the disk is full, or the folder gone
            print(f"run_bench.py: {printable(error)}; what is finished is kept", file=sys.stderr)
            written = False
        finally:
            written = finish([out], out) and written
    return written and all(_status(out, cell) == "ok" for cell in todo)


def open_folder(out: Path, matrix: Matrix, fresh: bool) -> None:
    """As :func:`bench.records.run_folder.open_run`; damaged files are named on standard error."""
    for name in run_folder.open_run(out, to_toml(matrix), fresh):
        print(f"{printable(out / name)}: is not what was written", file=sys.stderr)


def describe_in(out: Path, dataset: dict[str, Any], device: str) -> None:
    """Writes what is run on, data and machine, into an open folder, which is not sealed from then on."""
    run_folder.unseal(out)
    write_json(out / "dataset.json", dataset)
    write_json(out / "environment.json", capture(device))


def _status(out: Path, cell: Cell) -> str | None:
    try:
        return run_folder.kept(out, cell.cell_id)
    except Damaged:
        return None


def limits(args: argparse.Namespace) -> Limits:
    """When cells are stopped.

    Raises:
        UserError: a limit that is none.
    """
    for option in ("cell_timeout", "hang_timeout"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UserError(f"--{option.replace('_', '-')} {value:g}: must be above zero")
    memory = None if args.memory_limit is None else parse_size(args.memory_limit, "--memory-limit")
    return Limits(args.cell_timeout, args.hang_timeout, memory)


def finish(runs: Sequence[Path], out: Path) -> bool:
    """Tables, figures and report of what is there, and the sums over everything; whether they could be written."""
    there = [run for run in runs if any((run / "cells").glob("*/record.json"))]
    if not there:
        return True
    from reports.build import build

    try:
        build(there, out)
        if there == [out]:
            run_folder.seal(out)
    except (UserError, OSError) as error:
        print(f"run_bench.py: no report: {printable(error)}", file=sys.stderr)
        return False
    print(f"report: {printable(out / 'report.md')}", file=sys.stderr)
    return True


def resolve(args: argparse.Namespace, needs_data: bool = True) -> tuple[Matrix, str]:
    """The matrix of preset or file, of its first dataset where it has several, and what messages call it.

    Args:
        needs_data: whether a dataset must say where it lies.
    """
    found = resolve_all(args, needs_data)
    return found.matrices[0], found.origin


@dataclass(frozen=True)
class Resolved:
    """What a recipe and the options come to.

    Attributes:
        name: of the recipe.
        matrices: one per dataset, at least one, each with a name of its own.
        origin: what messages call it.
    """

    name: str
    matrices: tuple[Matrix, ...]
    origin: str


def resolve_all(args: argparse.Namespace, needs_data: bool = True) -> Resolved:
    """The matrix of preset or file with the options laid over it, for each of its datasets."""
    data, origin = _read(args)
    own = load_method_files(data.pop("method_files", None), args.method_file or (), args.config)
    _add(data, own)
    options: dict[Path_, str] = {}
    for option, place in PLACES.items():
        value = getattr(args, option)
        if value is None:
            continue
        if option in ("dataset", "shop_seed", "data_dir"):
            data.pop("datasets", None)  # the options say which
        if option == "data_dir" and isinstance(value, list):
            if len(value) > 1:
                data["datasets"] = [{"data_dir": folder} for folder in value]
            value = value[0]
        if option in BUDGETS:
            for other in BUDGETS:
                data.setdefault("budget", {}).pop(other, None)
        _put(data, place, value)
        options[place] = "--" + option.replace("_", "-")
    if args.text_model or args.image_model or args.weights:
        data["backbones"] = data["backbones"][:1]  # the options describe one pair
    else:
        whole = {key: value for key in ("trust_remote_code", "quantise") if (value := getattr(args, key))}
        if whole:
            data["backbones"] = [{**pair, **whole} for pair in data["backbones"]]
    if args.methods is not None:
        data["methods"] = _chosen(data.get("methods", []), args.methods)
    if args.hidden_states is not None:
        data["methods"] = [_served(table, args.hidden_states) for table in data.get("methods", [])]
    matrices = tuple(parse(recipe, origin, options, needs_data) for recipe in over_datasets(data, origin))
    for matrix in matrices:
        check_applicable(matrix, options)
    return Resolved(str(data.get("name")), matrices, origin)


def _read(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The recipe before the options go over it."""
    in_files = args.dataset is not None and args.dataset != "shop"
    if args.config is not None:
        data, origin = read_toml(args.config), str(args.config)
        check_shape(data, origin)
        in_files = in_files or data.get("dataset", {}).get("name", "shop") != "shop"
        return extended(data, origin, lambda base: read_preset(base, in_files), in_files), origin
    preset = args.preset or ("amazon" if in_files else "default")
    data = read_preset(preset, in_files)
    if in_files and args.preset is None:
        data["name"] = args.dataset
    return data, f"preset {preset}"


def _add(data: dict[str, Any], own: Own) -> None:
    """Records the files; what those of the command line bring is run beside what the recipe names already."""
    if tables := own.tables():
        data["method_files"] = tables
    methods = data.get("methods")
    if not isinstance(methods, list):
        return  # told by parse
    there = {table.get("name") for table in methods if isinstance(table, dict)}
    data["methods"] = [*methods, *({"name": name} for file in own.given for name in file.names if name not in there)]


def _served(table: dict[str, Any], hidden_states: str) -> dict[str, Any]:
    """A method that reads hidden states gets them live or from the cache; the others are left as they are."""
    kind = str(table.get("kind", table.get("name")))
    if kind not in known() or not issubclass(method_class(kind), HiddenMethod):
        return table
    return {**table, "cached": hidden_states == "cached"}


def _put(data: dict[str, Any], place: Path_, value: Any) -> None:
    if place[0] == "backbones":
        pairs = data["backbones"] = data.get("backbones") or [{}]
        pairs[0] = {**pairs[0], place[2]: value}
        return
    *tables, key = map(str, place)
    for table in tables:  # copies, for the recipe may be used again
        data[table] = dict(data.get(table, {}))
        data = data[table]
    data[key] = value


def _chosen(tables: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """The named methods, with the recipe's options where it has them and defaults where not."""
    named = {str(table.get("name")): table for table in tables}
    for name in names:
        if name not in named and name not in known():
            raise UserError(f"--methods: unknown method {name!r}{did_you_mean(name, {*named, *known()})}")
        if names.count(name) > 1:
            raise UserError(f"--methods: {name} is given twice")
    return [named.get(name, {"name": name}) for name in names]


def resolve_device(device: str) -> str:
    """ "auto" is the first GPU or the CPU.

    Raises:
        UserError: a GPU that is not there.
    """
    if device == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise UserError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices")
    return f"cuda:{index}"


def check_inputs(todo: list[Cell]) -> dict[str, Any]:
    """Loads data and tokenizers of every pair and modality once, so that bad input shows before anything runs.

    Returns:
        the content of ``dataset.json``.
    """
    folder = todo[0].dataset.data_dir
    if folder is not None and not os.path.isdir(folder):  # before a hub is asked for models
        raise UserError(f"--data-dir {folder}: no such folder")
    seen: dict[tuple[Any, ...], None] = {}
    facts: dict[str, Any] = {}
    unknown_shares: dict[str, float] = {}
    for cell in todo:
        key = (cell.backbones, cell.modality)
        if key in seen:
            continue
        seen[key] = None
        data = load_data(cell)
        for other in todo:
            if (other.backbones, other.modality) == key:
                check_network(other, data.sources)
                check_budget(other, data.splits)
        _, unknown = raw_feed(data, cell)
        if not facts:
            facts = describe(cell.dataset, data.catalogue, data.splits)
            facts["references"] = references(cell.dataset, data.catalogue, data.splits)
        if unknown is not None:
            unknown_shares[str(cell.model("text"))] = unknown
    return facts | {"unknown_token_share": unknown_shares}


def choose_folders(out: Path | None, resolved: Resolved, fresh: bool) -> list[Path]:
    """Where each run goes: ``--out`` or runs/<name>, and one of several into a folder within, by its name.

    Where runs/<name> holds another matrix (or any, to start afresh), it is runs/<name>-2 and so on.
    """
    several = len(resolved.matrices) > 1
    texts = {matrix.name: to_toml(matrix) for matrix in resolved.matrices}

    def within(base: Path) -> list[Path]:
        return [base / name if several else base for name in texts]

    if out is not None:
        return within(out)
    for number in range(1, 1000):
        folders = within(Path("runs") / (resolved.name if number == 1 else f"{resolved.name}-{number}"))
        if all(_usable(folder, text, fresh) for folder, text in zip(folders, texts.values(), strict=True)):
            return folders
    raise UserError("--out: runs/ holds a thousand runs of this name; name a folder")


def _usable(folder: Path, text: str, fresh: bool) -> bool:
    """Whether a run of this matrix can start or go on in a folder."""
    recipe = folder / "matrix.toml"
    old = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None
    return not folder.exists() or (old is not None and not fresh and not first_difference(old, text))
