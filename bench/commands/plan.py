"""The ``plan`` command: predicts memory, FLOPs and a lower bound on the time of a step, without a GPU."""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.commands.arguments import DATASET, add_options, add_recipe, request_of
from bench.data.kinds import KINDS
from bench.records.columns import MEMORY_PARTS
from bench.utils.errors import UserError
from bench.utils.sizes import parse_size, readable
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.cell.planner import Plan, Planner, Workload
    from bench.config.cells import Cell
    from bench.config.matrix import Matrix
    from bench.scoring.roofline import Roof

# Heavy imports are inside functions: --help must answer at once.

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = (
        "Predicts trained parameters, peak memory and FLOPs of a training step for each method, on fake tensors: "
        "without a GPU and without weights. Nothing is trained."
    )
    parser.epilog = "example: python run_bench.py plan --preset paper --card a100-80g --fit 24GiB"
    add_recipe(parser)
    add_options(parser, "methods", "method_file", "text_model", "image_model", "trust_remote_code", "hidden_states")
    add_options(parser, "modality", "batch_size", "precision", "quantise", "gradient_checkpointing")
    parser.add_argument(
        "--shapes",
        choices=["data", "full"],
        help="shapes of the batch: data for the batch that a run measures, or full for 11 distinct items per user with "
        "titles of full length, which reads no data (default: full for random weights, otherwise data)",
    )
    parser.add_argument(
        "--items", type=int, metavar="N", help="with --shapes full: number of items whose hidden states are cached"
    )
    add_options(parser, "data_dir", *DATASET)
    parser.add_argument("--fit", metavar="SIZE", help="find the largest batch that fits into SIZE, such as 24GiB")
    parser.add_argument(
        "--card", metavar="NAME", help="give a lower bound on the time of a step, from the data sheet of this GPU"
    )
    parser.add_argument(
        "--peak-flops", type=float, metavar="X", help="operations per second of the GPU, instead of --card"
    )
    parser.add_argument(
        "--bandwidth", type=float, metavar="X", help="memory bandwidth in bytes per second, instead of --card"
    )
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Plans every method on every dataset, prints the tables and returns exit status 0.

    Raises:
        UserError: an option, file or model is invalid, or a method cannot be planned.
    """
    limit = None if args.fit is None else parse_size(args.fit, "--fit")
    matrices, origin = _matrices(args)
    roof = _roof(args, matrices[0].precision)
    shapes = args.shapes or _default_shapes(matrices[0])
    for matrix in matrices:
        _check_shapes(args, matrix, shapes)
    cells_of = [_cells(matrix, origin) for matrix in matrices]
    rows_of: list[list[Row]] = [[] for _ in matrices]
    workloads: dict[Any, Workload] = {}
    # Cells that differ only in their dataset have the same model and share a planner.
    for number, same_model in enumerate(zip(*cells_of, strict=True), start=1):
        print(f"plan: {same_model[0].method.name} ({number}/{len(cells_of[0])})", file=sys.stderr)
        planner = _planner(same_model[0])
        for matrix, cell, rows in zip(matrices, same_model, rows_of, strict=True):
            key = (cell.dataset, cell.backbones, cell.modality)
            if key not in workloads:
                workloads[key] = _workload(cell, shapes, args.items)
            rows.append({"run": matrix.name, **_row(planner, cell, workloads[key], roof, limit)})
    all_rows = [row for rows in rows_of for row in rows]
    print(as_json(all_rows) if args.json else _tables(all_rows))
    return 0


def _matrices(args: argparse.Namespace) -> tuple[tuple[Matrix, ...], str]:
    """The matrix of each dataset, and the name of the recipe in error messages."""
    from bench.config.resolve import resolve
    from bench.models.config import CONFIGURATIONS

    changes = {}
    if args.text_model in CONFIGURATIONS or args.image_model in CONFIGURATIONS:
        changes["weights"] = "random"  # built-in configurations have no pretrained weights
    resolved = resolve(request_of(args, **changes), needs_data=False)
    return resolved.matrices, resolved.origin


def _default_shapes(matrix: Matrix) -> str:
    """Default of ``--shapes``: a recipe with random weights asks for costs alone and needs no data."""
    return "full" if any(pair.weights == "random" for pair in matrix.backbones) else "data"


def _check_shapes(args: argparse.Namespace, matrix: Matrix, shapes: str) -> None:
    if shapes == "data" and KINDS[matrix.dataset.name].in_files and not matrix.dataset.data_dir:
        raise UserError(f"dataset {matrix.dataset.name} needs --data-dir DIR, or --shapes full, which reads no data")
    if args.items is not None and shapes == "data":
        raise UserError("--items: needs --shapes full; with --shapes data the dataset gives the number of items")
    for option in ("data_dir", *DATASET):
        if option != "dataset" and getattr(args, option) is not None and shapes == "full":
            raise UserError(f"--{option.replace('_', '-')}: not with --shapes full, which reads no data")


def _cells(matrix: Matrix, origin: str) -> list[Cell]:
    """The cells of the first seed, with random weights: predicted costs depend neither on the seed nor on weights.

    Raises:
        UserError: a method's options are invalid, or the method cannot be trained with the budget.
    """
    from bench.config.cells import cells
    from bench.config.matrix import build_method

    for method in matrix.methods:
        built = build_method(method, origin)
        # A budget in epochs is a number of steps that only the data give; the other budgets can be checked here.
        if matrix.budget.epochs is None and (problem := built.check_budget(matrix.budget.steps)):
            raise UserError(f"{origin}: method {method.name}: {problem}")
    pairs = tuple(dataclasses.replace(pair, weights="random") for pair in matrix.backbones)
    return cells(dataclasses.replace(matrix, backbones=pairs, seeds=matrix.seeds[:1]), "cpu")


def _workload(cell: Cell, shapes: str, items: int | None) -> Workload:
    """The batches that a cell is planned for; ``items`` is the value of ``--items``."""
    from bench.cell.planner import PAPER_ITEMS, DataBatches, FullBatches

    if shapes == "data":
        from bench.commands.cache_options import check_writable

        check_writable()
        return DataBatches.of(cell)
    if items is not None and items < 1:
        raise UserError(f"--items {items}: must be above zero")
    return FullBatches(cell.dataset.max_tokens, PAPER_ITEMS if items is None else items)


def _roof(args: argparse.Namespace, precision: str) -> Roof | None:
    """Peak operations and bandwidth that the options give; None without such an option."""
    from bench.scoring.roofline import Roof, find_card, roof_of

    limits = {"--peak-flops": args.peak_flops, "--bandwidth": args.bandwidth}
    given = [option for option, value in limits.items() if value is not None]
    if args.card is not None and given:
        raise UserError(f"{given[0]}: not allowed with --card")
    if args.card is not None:
        return roof_of(find_card(args.card), precision)
    if not given:
        return None
    for option, value in limits.items():
        if value is None:
            raise UserError(f"{given[0]}: needs {option}, too")
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{option} {value:g}: must be above zero")
    return Roof(args.peak_flops, args.bandwidth)


@contextmanager
def _errors_name_method(cell: Cell) -> Iterator[None]:
    """Turns errors while a cell is planned into a UserError that names its method."""
    from bench.records.record import one_line

    try:
        yield
    except UserError as error:
        raise UserError(f"method {cell.method.name}: {error}") from error
    except (RuntimeError, ValueError) as error:  # shapes do not fit, or an operation does not run on fake tensors
        raise UserError(f"method {cell.method.name}: cannot be planned: {one_line(str(error))}") from error


def _planner(cell: Cell) -> Planner:
    from bench.cell.planner import Planner

    with _errors_name_method(cell):
        return Planner(cell)


def _row(planner: Planner, cell: Cell, workload: Workload, roof: Roof | None, limit: int | None) -> Row:
    from bench.scoring.roofline import lower_bound

    with _errors_name_method(cell):
        plan = planner.plan(workload, cell.budget.batch_size)
    parts = plan.memory.as_dict()
    row: Row = {
        "method": cell.method.name,
        "text_model": cell.shown_model("text"),
        "image_model": cell.shown_model("image"),
        "modality": cell.modality,
        "precision": cell.precision,
        "batch_size": cell.budget.batch_size,
        "shapes": workload.name,
        "items_per_step": plan.sizes.items,
        "tokens": plan.sizes.tokens,
        "trainable_params": plan.trainable_params,
        "total_params": plan.total_params,
        "peak_memory_bytes": parts.pop("peak_bytes"),
        **parts,
        "flops_forward": plan.flops.forward,
        "flops_backward": plan.flops.backward,
        "cache_bytes": plan.cache_bytes,
        "cache_items": None if plan.cache_bytes is None else plan.n_items,
    }
    if cell.training.compile:
        row["step"] = "eager"
    if roof is not None:
        row["step_seconds_lower_bound"] = lower_bound(roof, plan.work)
    return row if limit is None else row | _fit(planner, plan, workload, cell.budget.batch_size, limit)


def _fit(planner: Planner, plan: Plan, workload: Workload, users: int, limit: int) -> Row:
    """The largest number of users per step whose peak fits the limit, with a note if none or all fit."""
    from bench.cell.planner import SMALLEST, largest_batch_size

    most = workload.most_users
    known = {min(users, most): plan.memory.peak_bytes}
    largest = largest_batch_size(lambda n: planner.peak(workload, n), limit, most, known)
    note = ""
    if largest is None:
        needed = planner.peak(workload, SMALLEST)
        note = f"not even {SMALLEST} users fit: they take {readable(needed)}"
    elif largest == most:
        note = "all users fit" if workload.name == "data" else "the largest batch size that there is"
    return {"fit_bytes": limit, "largest_batch_size": largest, "fit_note": note}


# Key of a row -> title of its column in the table.
COLUMNS = (
    ("method", "method"),
    ("trainable_params", "trained"),
    ("total_params", "parameters"),
    ("peak_memory_bytes", "peak"),
    *((part, "weights" if part == "parameters" else part) for part in MEMORY_PARTS),
    ("flops_forward", "forward"),
    ("flops_backward", "backward"),
    ("cache_bytes", "on disk"),
    ("step_seconds_lower_bound", "step >="),
    ("largest_batch_size", "largest batch"),
)


def _tables(rows: Sequence[Row]) -> str:
    """One table per dataset, pair of encoders and modality; datasets with equal plans share a table."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["run"], row["text_model"], row["image_model"], row["modality"]), []).append(row)
    runs_of: dict[str, list[str]] = {}  # table -> the runs that it holds for
    for (run, *_), group in groups.items():
        runs_of.setdefault(_table(group), []).append(printable(run))
    several = len({row["run"] for row in rows}) > 1
    return "\n\n".join(f"{', '.join(runs)}:\n{table}" if several else table for table, runs in runs_of.items())


def _table(rows: Sequence[Row]) -> str:
    shown = [(key, title) for key, title in COLUMNS if key in rows[0]]
    cells = [[title for _, title in shown]] + [[_text(key, row[key]) for key, _ in shown] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    return "\n".join([_heading(rows[0]), "", *lines, "", *_notes(rows)])


def _heading(row: Row) -> str:
    models = " + ".join(printable(name) for name in (row["text_model"], row["image_model"]) if name is not None)
    source = (
        "the largest batch of the first epoch" if row["shapes"] == "data" else "all distinct, titles of full length"
    )
    tokens = f", {row['tokens']} tokens" if row["tokens"] else ""
    return (
        f"{models}, {row['precision']}, {row['batch_size']} users per step: {row['items_per_step']} items "
        f"({source}{tokens})"
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    lines = ["Bytes of live tensors in decimal units; allocator and driver take more. FLOPs of one step."]
    if any(row["cache_items"] is not None for row in rows):
        count = next(row["cache_items"] for row in rows if row["cache_items"] is not None)
        lines.append(f"on disk: hidden states of {count:,} items.")
    if rows[0].get("step") == "eager":
        lines.append("compile = true: memory, FLOPs and bounds are of the eager step, not of a compiled one.")
    lines += [f"{row['method']}: {row['fit_note']}." for row in rows if row.get("fit_note")]
    return lines


def _text(key: str, value: Any) -> str:
    if value is None:
        return "none" if key == "largest_batch_size" else "-"
    if key in ("trainable_params", "total_params", "largest_batch_size"):
        return f"{value:,}"
    if key.startswith("flops"):
        return f"{value:.3g}"
    if key == "step_seconds_lower_bound":
        return f"{value * 1000:.3g} ms"
    return readable(value) if isinstance(value, int) else str(value)
