"""The ``run`` command: resolves the matrix of each dataset, runs its cells and writes the report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.commands import cache_options
from bench.commands.arguments import add_matrix, add_options, request_of
from bench.config.cells import Cell, cells
from bench.config.matrix import Matrix, build_method, to_toml
from bench.config.resolve import Resolved, resolve
from bench.launch import fork_server, ray_cluster
from bench.launch.local import Launch, resolve_device, run_local, slot_variables
from bench.launch.progress import Reporter
from bench.launch.signals import stoppable
from bench.launch.supervisor import Limits, cell_environment
from bench.records import run_folder
from bench.records.record import Damaged, write_json
from bench.training.config import TrainingConfig
from bench.utils.errors import UserError
from bench.utils.sizes import parse_size
from bench.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Runs all cells of a matrix and writes records and a report into a run folder. Options take precedence over "
        "the preset or matrix file. The same command resumes a run that was stopped. Exit status: 0 all cells ended "
        "ok; 1 some cell did not; 2 bad usage or input."
    )
    parser.epilog = (
        "example: python run_bench.py run --methods iisan-cached,lora --seeds 0,1,2 --epochs 5 --out runs/mine"
    )
    add_matrix(parser)
    add_options(parser, "profile", "checkpoint_every", "save_adapters")
    add_options(parser, "launcher", "ray_address", "parallel", "retry_failed")
    add_options(parser, "within", "price_per_hour")


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start, its inputs checked.

    Attributes:
        dataset: content of ``dataset.json``.
        out: run folder.
    """

    matrix: Matrix
    cells: list[Cell]
    dataset: dict[str, Any]
    out: Path


def run(args: argparse.Namespace) -> int:
    """Runs the matrix of each dataset.

    Returns:
        Exit status: 0 if every cell ended ok, 1 otherwise.

    Raises:
        UserError: an option, file or model is invalid; nothing has been written then.
    """
    variables = cache_options.apply(args)
    resolved = resolve(request_of(args))
    for method in resolved.matrices[0].methods:
        build_method(method, resolved.origin)
    if args.launcher == "ray" and resolved.matrices[0].save_adapters:
        raise UserError("--save-adapters: not with --launcher ray, which returns records but no folders")
    launch = Launch(limits(args), args.parallel, args.retry_failed, variables)
    if args.launcher == "local":
        device = resolve_device(resolved.matrices[0].device)
        slot_variables(device, launch.parallel)
        fork_server.prepare(cell_environment(variables))  # imports while the inputs are checked
        return _run_all(args, resolved, device, partial(run_local, launch=launch))
    with ray_cluster.cluster(args.ray_address) as ray:
        device = ray_cluster.resolve_device(ray, resolved.matrices[0].device)
        return _run_all(args, resolved, device, partial(ray_cluster.run_ray, ray, launch=launch))


def _run_all(args: argparse.Namespace, resolved: Resolved, device: str, run_cells: Callable[..., None]) -> int:
    """Checks the inputs of every matrix, runs one matrix after the other, and writes a report over all of them.

    Args:
        run_cells: function of cells, run folder and reporter that runs the cells with the chosen launcher.
    """
    from bench.cell.check_inputs import check_inputs

    cache_options.check_writable()
    cells_of = [cells(matrix, device) for matrix in resolved.matrices]
    datasets = [check_inputs(its_cells) | {"command": args.command_line} for its_cells in cells_of]
    folders = choose_folders(args.out, resolved, args.fresh)
    report = partial(write_report, within=args.within, price_per_hour=args.price_per_hour)
    runs = [PreparedRun(*parts) for parts in zip(resolved.matrices, cells_of, datasets, folders, strict=True)]
    try:
        ended_ok = [_run_one(run, args.fresh, device, run_cells, report) for run in runs]
    finally:
        merged = len(runs) == 1 or report(folders, folders[0].parent)
    return 0 if all(ended_ok) and merged else 1


def _run_one(
    run: PreparedRun, fresh: bool, device: str, run_cells: Callable[..., None], report: Callable[..., bool]
) -> bool:
    """Runs the cells of one matrix and writes its report; True if every cell ended ok and every file was written."""
    out = run.out
    with run_folder.locked(out), stoppable():
        open_folder(out, run.matrix, fresh)
        write_descriptions(out, run.dataset, device, run.matrix.training)
        written = True
        try:
            with Reporter(len(run.cells)) as reporter:
                run_cells(run.cells, out, reporter)
        except (UserError, OSError) as error:  # inputs are checked, so the disk is full or the folder gone
            print(f"run_bench.py: {printable(error)}; finished cells are kept", file=sys.stderr)
            written = False
        finally:
            written = report([out], out) and written
    return written and all(_status(out, cell) == "ok" for cell in run.cells)


def open_folder(out: Path, matrix: Matrix, fresh: bool) -> None:
    """Opens a run folder (:func:`bench.records.run_folder.open_run`) and names damaged files on standard error."""
    for name in run_folder.open_run(out, to_toml(matrix), fresh):
        print(f"{printable(out / name)}: missing or damaged (checksum mismatch)", file=sys.stderr)


def write_descriptions(out: Path, dataset: dict[str, Any], device: str, training: TrainingConfig) -> None:
    """Writes ``dataset.json`` and ``environment.json`` into an open folder, and removes its checksums."""
    import torch

    from bench.measure.environment import capture

    torch.backends.cuda.enable_cudnn_sdp(training.cudnn_attention)  # as the cells do, so that the flags are theirs
    run_folder.unseal(out)
    write_json(out / "dataset.json", dataset)
    write_json(out / "environment.json", capture(device))


def _status(out: Path, cell: Cell) -> str | None:
    try:
        return run_folder.kept(out, cell.cell_id)
    except Damaged:
        return None


def limits(args: argparse.Namespace) -> Limits:
    """Limits of time and memory for each cell, from the command line.

    Raises:
        UserError: a limit is not above zero, or its size is not understood.
    """
    for option in ("cell_timeout", "hang_timeout"):
        value = getattr(args, option)
        if value is not None and not value > 0:
            raise UserError(f"--{option.replace('_', '-')} {value:g}: must be above zero")
    memory = None if args.memory_limit is None else parse_size(args.memory_limit, "--memory-limit")
    return Limits(args.cell_timeout, args.hang_timeout, memory)


def write_report(runs: Sequence[Path], out: Path, **options: Any) -> bool:
    """Writes tables, figures and report of the runs that have a record; a single run's folder gets checksums, too.

    Args:
        runs: run folders.
        out: folder of the report.
        options: further arguments of ``reports.build.build``.

    Returns:
        False if the report could not be written; the reason is printed on standard error.
    """
    with_records = [run for run in runs if any((run / "cells").glob("*/record.json"))]
    if not with_records:
        return True
    from reports.build import build

    try:
        build(with_records, out, **options)
        if with_records == [out]:
            run_folder.seal(out)
    except (UserError, OSError) as error:
        print(f"run_bench.py: no report: {printable(error)}", file=sys.stderr)
        return False
    print(f"report: {printable(out / 'report.md')}", file=sys.stderr)
    return True


def choose_folders(out: Path | None, resolved: Resolved, fresh: bool) -> list[Path]:
    """Folder of each run: ``--out`` or runs/<name>, or for several runs a folder in it per run, named like the run.

    If runs/<name> holds another matrix (or, with ``fresh``, any run), runs/<name>-2 is used instead, and so on.

    Raises:
        UserError: a thousand folders of this name hold runs.
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
    raise UserError(f"runs/ holds a thousand runs of the name {resolved.name}; choose a folder with --out")


def _usable(folder: Path, text: str, fresh: bool) -> bool:
    """True if a run of this matrix can start or resume in a folder."""
    recipe = folder / "matrix.toml"
    old = recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None
    return not folder.exists() or (old is not None and not fresh and not run_folder.first_difference(old, text))
