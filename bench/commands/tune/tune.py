"""The ``tune`` command: matrix → checks → trials → the best options of every method."""

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
from bench.commands.tune.study import Go, Search, finished, library, open_studies, run_trials, trial_cell
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
    """Searches; 0 if every method has a trial that ended ok, 1 otherwise.

    Raises:
        UserError: for anything wrong with options, files or models, before anything is written.
    """
    library()
    space = {"rates": args.lr_range, "sizes": args.sizes}
    search = Search(args.trials, Space(**{k: v for k, v in space.items() if v is not None}), args.search_seed)
    cache_options.apply(args)
    found = resolve(request_of(args))
    matrix, origin = found.matrices[0], found.origin
    for method in matrix.methods:
        build_method(method, origin)
    _check_one_comparison(found)
    device = resolve_device(matrix.device)
    cache_options.check_writable()
    facts = check_inputs(list(_extremes(matrix, device, search.space)))
    facts.pop("references")  # they are of the test targets
    matrix = dataclasses.replace(matrix, name=f"{matrix.name[:56]}-tuning", tuning=None)
    (out,) = choose_folders(args.out, Resolved(matrix.name, (matrix,), origin), args.fresh)
    go = partial(run_local, launch=Launch(limits(args)))
    return search_in(out, matrix, device, search, facts | {"command": args.command_line}, go, args.fresh)


def search_in(
    out: Path, matrix: Matrix, device: str, search: Search, facts: dict[str, Any], go: Go, fresh: bool = False
) -> int:
    """Searches in a folder, or goes on there; whatever stops it, the results of what is finished are written.

    Args:
        facts: the content of ``dataset.json``.
        go: runs cells, as ``bench.launch.local.run_local``.

    Raises:
        UserError: another process holds the folder, or it holds something else.
    """
    found: list[Tuned] = []
    with run_folder.locked(out), stoppable():
        open_folder(out, matrix, fresh)
        studies = open_studies(matrix, search, out)
        write_descriptions(out, facts, device)
        left = sum(search.trials - len(finished(study)) for study in studies.values())
        try:
            with Reporter(left) as reporter:
                run_trials(matrix, device, search, studies, out, go, reporter)
        finally:
            found = write_results(matrix, search, studies, out, facts.get("digest"))
            run_folder.seal(out)
            _say(matrix, found, out)
    return 0 if len(found) == len(matrix.methods) else 1


def _check_one_comparison(found: Resolved) -> None:
    """Options are chosen for one dataset, pair, modality and seed at a time."""
    matrix, origin = found.matrices[0], found.origin
    for values, what in (
        (found.matrices, "datasets"),
        (matrix.backbones, "pairs of backbones"),
        (matrix.modality, "modalities (--modality)"),
        (matrix.seeds, "seeds (--seeds)"),
    ):
        if len(values) > 1:
            raise UserError(f"{origin}: tune takes one comparison at a time, here are {len(values)} {what}")


def _extremes(matrix: Matrix, device: str, space: Space) -> Iterator[Cell]:
    """Every method as the recipe has it, and with every size that may be drawn: what cannot be shows before a run."""
    for method in matrix.methods:
        yield trial_cell(matrix, device, method, {}, 0)
        counted = [name for name, kind in searched(build_method(method, "matrix")).items() if kind == "size"]
        for size in space.sizes if counted else ():
            yield trial_cell(matrix, device, method, dict.fromkeys(counted, size), 0)


def _say(matrix: Matrix, found: list[Tuned], out: Path) -> None:
    by_name = {one.name: one for one in found}
    for method in matrix.methods:
        one = by_name.get(method.name)
        if one is None:
            print(f"{method.name}: no trial ended ok", file=sys.stderr)
            continue
        failed = f", {one.failed} of them failed" if one.failed else ""
        trials = f"{one.trials} trial{'s' * (one.trials > 1)}{failed}"
        print(f"{one.name}: validation HR@10 {one.curve[-1][1]:.4f}, {trials}", file=sys.stderr)
    if found:
        print(f"best options: {printable(out / 'best.toml')}", file=sys.stderr)
