"""The ``tune`` command: checks the matrix, runs the trials and writes the best options of every method."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.cell.check_inputs import check_inputs
from bench.commands import cache_options
from bench.commands.arguments import request_of
from bench.commands.run import choose_folders, limits, open_folder, write_descriptions
from bench.commands.tune.results import write_results
from bench.commands.tune.space import Space, searched
from bench.commands.tune.study import RunCells, Search, finished, library, open_studies, run_trials, trial_cell
from bench.config.cells import Cell
from bench.config.matrix import Matrix, build_method
from bench.config.resolve import Resolved, resolve
from bench.launch.local import Launch, resolve_device, run_local
from bench.launch.progress import Reporter
from bench.launch.signals import stoppable
from bench.records import run_folder
from bench.records.tuned import Tuned
from bench.utils.errors import UserError
from bench.utils.text import printable


def tune(args: argparse.Namespace) -> int:
    """Runs the search that the command line asks for.

    Returns:
        Exit status: 0 if every method has a trial that ended ok, 1 otherwise.

    Raises:
        UserError: an option, file or model is invalid; nothing has been written then.
    """
    library()
    space = {"rates": args.lr_range, "sizes": args.sizes}
    search = Search(args.trials, Space(**{k: v for k, v in space.items() if v is not None}), args.search_seed)
    cache_options.apply(args)
    resolved = resolve(request_of(args))
    matrix, origin = resolved.matrices[0], resolved.origin
    for method in matrix.methods:
        build_method(method, origin)
    _check_one_comparison(resolved)
    device = resolve_device(matrix.device)
    cache_options.check_writable()
    dataset = check_inputs(list(_cells_to_check(matrix, device, search.space)))
    dataset.pop("references")  # accuracy of baselines on the test targets, which a search must not use
    matrix = dataclasses.replace(matrix, name=f"{matrix.name[:56]}-tuning", tuning=None)
    (out,) = choose_folders(args.out, Resolved(matrix.name, (matrix,), origin), args.fresh)
    run_cells = partial(run_local, launch=Launch(limits(args)))
    return search_in(out, matrix, device, search, dataset | {"command": args.command_line}, run_cells, args.fresh)


def search_in(
    out: Path,
    matrix: Matrix,
    device: str,
    search: Search,
    dataset: dict[str, Any],
    run_cells: RunCells,
    fresh: bool = False,
) -> int:
    """Starts or resumes a search in a folder; even if it is stopped, the results of finished trials are written.

    Args:
        dataset: content of ``dataset.json``.
        run_cells: function that runs cells in a run folder, such as ``bench.launch.local.run_local``.
        fresh: True if the folder must not hold a run.

    Returns:
        Exit status: 0 if every method has a trial that ended ok, 1 otherwise.

    Raises:
        UserError: another process uses the folder, or it holds another run or search.
    """
    results: list[Tuned] = []
    with run_folder.locked(out), stoppable():
        open_folder(out, matrix, fresh)
        studies = open_studies(matrix, search, out)
        write_descriptions(out, dataset, device, matrix.training)
        left = sum(search.trials - len(finished(study)) for study in studies.values())
        try:
            with Reporter(left) as reporter:
                run_trials(matrix, device, search, studies, out, run_cells, reporter)
        finally:
            results = write_results(matrix, search, studies, out, dataset.get("digest"))
            run_folder.seal(out)
            _print_results(matrix, results, out)
    return 0 if len(results) == len(matrix.methods) else 1


def _check_one_comparison(resolved: Resolved) -> None:
    """Checks that there is one dataset, pair of backbones, modality and seed, since options are chosen for one each."""
    matrix, origin = resolved.matrices[0], resolved.origin
    for values, what in (
        (resolved.matrices, "datasets"),
        (matrix.backbones, "pairs of backbones"),
        (matrix.modality, "modalities (--modality)"),
        (matrix.seeds, "seeds (--seeds)"),
    ):
        if len(values) > 1:
            raise UserError(f"{origin}: tune needs one comparison at a time, but the matrix has {len(values)} {what}")


def _cells_to_check(matrix: Matrix, device: str, space: Space) -> Iterator[Cell]:
    """Cells with the recipe's values and with every size of the space, so that invalid ones show before the search."""
    for method in matrix.methods:
        yield trial_cell(matrix, device, method, {}, 0)
        size_options = [name for name, kind in searched(build_method(method, "matrix")).items() if kind == "size"]
        for size in space.sizes if size_options else ():
            yield trial_cell(matrix, device, method, dict.fromkeys(size_options, size), 0)


def _print_results(matrix: Matrix, results: list[Tuned], out: Path) -> None:
    by_name = {result.name: result for result in results}
    for method in matrix.methods:
        result = by_name.get(method.name)
        if result is None:
            print(f"{method.name}: no trial ended ok", file=sys.stderr)
            continue
        failed = f", {result.failed} of them failed" if result.failed else ""
        trials = f"{result.trials} trial{'s' * (result.trials > 1)}{failed}"
        print(f"{result.name}: validation HR@10 {result.curve[-1][1]:.4f}, {trials}", file=sys.stderr)
    if results:
        print(f"best options: {printable(out / 'best.toml')}", file=sys.stderr)
