"""The command line.

python run_bench.py                       the default matrix on the built-in shop
python run_bench.py run --preset smoke    all eight methods in a minute
python run_bench.py COMMAND --help        what a command takes, with an example
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from bench.commands import cache as cache_command
from bench.commands import compare as compare_command
from bench.commands import data_options, plan
from bench.commands.check import command
from bench.commands.data import command as data_command
from bench.commands.doctor import command as doctor_command
from bench.commands.tune import command as tune_command
from bench.utils.errors import UserError
from bench.utils.text import as_json, printable

if TYPE_CHECKING:
    from bench.scoring.pscp import Penalties

# Nothing heavy is imported before a command is known: --help and list must answer at once.


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage text above it."""

    def error(self, message: str) -> NoReturn:
        """Exit status 2."""
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"an empty name in {text!r}")
    return names


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers separated by commas, got {text!r}") from None


def _places(text: str) -> int:
    if not text.isdecimal() or len(text) > 3 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 999, got {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_seeds(text))


def _weights(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(weight) for weight in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected three numbers separated by commas, got {text!r}") from None


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(
        prog="run_bench.py",
        description="What fine-tuning a multimodal foundation model costs, and what it buys. "
        "Without a command the default matrix runs on the built-in shop.",
        epilog="example: python run_bench.py run --preset smoke --out runs/try",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    _add_run(commands)
    tuning = commands.add_parser("tune", help=tune_command.HELP)
    _add_matrix(tuning)
    tune_command.add_arguments(tuning)
    report = commands.add_parser(
        "report",
        help="render again, from records alone; several runs are merged",
        description="Writes report.md, figures/, results.csv and summary.csv from what cells left behind. A cell whose "
        "files are damaged is left out and named; of a cell that is in several runs the one that ended ok counts, then "
        "the later given. Exit status: 0 the report is there, whatever its cells ended with; 2 bad usage or input, "
        "such as a folder without any record that can be read.",
        epilog="example: python run_bench.py report runs/seed0 runs/seed1 --out runs/both",
    )
    report.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR", help="of a run, or of several datasets' runs")
    report.add_argument("--out", type=Path, help="folder for the result; needed for several runs")
    report.add_argument("--k", type=_counts, metavar="5,10,20", help="HR, NDCG, MRR at these (default 10)")
    report.add_argument("--weights", type=_weights, metavar="T,P,M", help="of the TPME, default 0.45,0.10,0.45")
    report.add_argument("--reference", type=Path, metavar="TABLE.csv", help="pins minima and maxima of the TPME")
    _add_penalties(report)
    score = commands.add_parser(
        "score",
        help="TPME (columns method, time, params, memory) or PSCP of any table",
        epilog="example: python run_bench.py score published.csv --json",
    )
    score.add_argument("table", type=Path, metavar="TABLE.csv")
    score.add_argument("--metric", choices=["tpme", "pscp", "both"], default="tpme")
    score.add_argument("--weights", type=_weights, metavar="T,P,M", help="of the TPME, default 0.45,0.10,0.45")
    score.add_argument("--reference", type=Path, metavar="TABLE.csv", help="pins minima and maxima of the TPME")
    _add_penalties(score)
    score.add_argument("--json", action="store_true", help="one JSON value on standard output and nothing else")
    compare = commands.add_parser("compare", help=compare_command.HELP, epilog=compare_command.EPILOG)
    compare_command.add_arguments(compare)
    planning = commands.add_parser("plan", help="predicted memory per method, without a GPU and without weights")
    plan.add_arguments(planning)
    checking = commands.add_parser("data", help="check a dataset before a long run")
    data_command.add_arguments(checking)
    check = commands.add_parser("check", help="does a method keep the contract: yours by file, or any by name")
    command.add_arguments(check)
    doctor = commands.add_parser("doctor", help="what on this machine would make the numbers wrong")
    doctor_command.add_arguments(doctor)
    cache = commands.add_parser("cache", help="list, verify or clear hidden states and converted data on disk")
    cache_command.add_arguments(cache)
    listing = commands.add_parser(
        "list",
        help="methods, presets, datasets, built-in backbones",
        epilog="example: python run_bench.py list --json",
    )
    listing.add_argument(
        "--method-file", type=Path, action="append", default=[], metavar="MY.py", help="runs it and lists its methods"
    )
    listing.add_argument("--peft", action="store_true", help="the tuners of the installed peft: which run here")
    listing.add_argument("--json", action="store_true", help="one JSON value on standard output and nothing else")
    return parser


def _add_penalties(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pscp-constants", type=_weights, metavar="P,F,M", help="params, extra TFLOPs, GB; default 5e8,10,94"
    )
    parser.add_argument("--pscp-exponents", type=_weights, metavar="P,F,M", help="default 1,1,1")


def _penalties(args: argparse.Namespace) -> Penalties:
    from bench.scoring.pscp import Penalties

    given = {"constants": args.pscp_constants, "exponents": args.pscp_exponents}
    return Penalties(**{name: values for name, values in given.items() if values is not None})


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run a matrix",
        description="Runs a matrix and leaves a run folder. Options go over what the preset or file says.",
        epilog="example: python run_bench.py run --methods iisan-cached,lora --seeds 0,1,2 --epochs 5 --out runs/mine",
    )
    _add_matrix(run)
    _add_own(run)


def _add_matrix(run: argparse.ArgumentParser) -> None:
    """What run and tune both take."""
    recipe = run.add_mutually_exclusive_group()
    recipe.add_argument("--preset", help="a shipped recipe, see list (default: default, or amazon for it)")
    recipe.add_argument("--config", type=Path, metavar="FILE", help="a matrix file (TOML)")
    run.add_argument("--methods", type=_names, metavar="A,B", help="only these methods")
    run.add_argument(
        "--method-file", type=Path, action="append", metavar="MY.py", help="with the methods of this file; repeatable"
    )
    run.add_argument("--seeds", type=_seeds, metavar="0,1")
    run.add_argument("--modality", help="text+image, text or image")
    run.add_argument(
        "--data-dir", action="append", metavar="DIR", help="folder of the dataset's files; several give a run each"
    )
    data_options.add_arguments(run)
    run.add_argument("--text-model", metavar="ID|DIR", help="built-in name, folder or hub id")
    run.add_argument("--image-model", metavar="ID|DIR")
    run.add_argument(
        "--trust-remote-code",
        action="store_true",
        default=None,
        help="let Python files that come with a model run; recorded, and the report says so",
    )
    run.add_argument(
        "--hidden-states",
        choices=["live", "cached"],
        help="how methods that read hidden states alone get them (default: as the recipe says)",
    )
    run.add_argument("--weights", help="pretrained, or random: from the configuration alone")
    budget = run.add_mutually_exclusive_group()
    budget.add_argument("--epochs", type=int, metavar="N")
    budget.add_argument("--steps", type=int, metavar="N")
    budget.add_argument("--seconds", type=float, metavar="S", help="of training alone")
    run.add_argument("--batch-size", type=int, metavar="N", help="users per step")
    run.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    run.add_argument("--precision", help="fp32, bf16 or fp16 (autocast, 32-bit weights)")
    run.add_argument(
        "--quantise",
        metavar="KIND",
        help="bnb-nf4 or torchao-int8: the encoders' linear maps in 4 or 8 bit, for every method alike",
    )
    run.add_argument(
        "--gradient-checkpointing",
        action="store_const",
        const=True,
        help="run the encoders' layers again in the backward pass instead of keeping what they compute",
    )
    run.add_argument(
        "--compile",
        action="store_const",
        const=True,
        help="torch.compile: encoder layers, the method's network, user encoder and loss; needs a C++ compiler",
    )
    run.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: runs/<name>)")
    cache_command.add_cache_dir(run)
    run.add_argument("--cache-limit", metavar="SIZE", help="such as 20GiB: least recently used files go first")
    run.add_argument("--fresh", action="store_true", help="start over, in an empty or absent folder only")
    run.add_argument("--cell-timeout", type=float, metavar="S", help="stop a cell after so many seconds")
    run.add_argument(
        "--hang-timeout", type=float, default=1800, metavar="S", help="... without a sign of life (default 1800)"
    )
    run.add_argument("--memory-limit", metavar="SIZE", help="of the host that a cell may take, such as 20GiB")


def _add_own(run: argparse.ArgumentParser) -> None:
    """What run alone takes."""
    run.add_argument("--profile", type=int, metavar="N", help="trace N steps of every cell after its measurement")
    run.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="keep a checkpoint after every N-th epoch, from which a cell that was killed goes on (default: none)",
    )
    run.add_argument(
        "--save-adapters",
        action="store_const",
        const=True,
        help="cells leave what they trained in adapter/<modality>/, peft's tuners in its own format (not with ray)",
    )
    run.add_argument("--launcher", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    run.add_argument(
        "--ray-address", default="auto", metavar="auto|HOST:PORT", help="of a running cluster (default: auto)"
    )
    run.add_argument("--parallel", type=_places, default=1, metavar="N", help="cells at a time, one per GPU")
    run.add_argument("--retry-failed", action="store_true", help="run cells again that ended oom, failed, ...")


def _run(args: argparse.Namespace) -> int:
    from bench.commands.run import run

    return run(args, shown_command(sys.argv[1:]))


def _tune(args: argparse.Namespace) -> int:
    from bench.commands.tune.tune import tune

    return tune(args, shown_command(sys.argv[1:]))


def shown_command(arguments: Sequence[str]) -> str:
    """The command as one would type it again."""
    import shlex

    return shlex.join(["python", "run_bench.py", *arguments])


def _report(args: argparse.Namespace) -> int:
    from bench.records import run_folder
    from reports.analysis.options import DEFAULT
    from reports.build import build
    from reports.load.run_folders import run_folders

    if len(args.runs) > 1 and args.out is None:
        raise UserError("report: several runs need --out DIR")
    out = args.out or args.runs[0]
    build(
        run_folders(args.runs),
        out,
        ks=args.k or DEFAULT.ks,
        weights=args.weights or DEFAULT.weights,
        reference=args.reference,
        penalties=_penalties(args),
    )
    run_folder.reseal(out)
    print(f"report: {printable(out / 'report.md')}", file=sys.stderr)
    return 0


def _score(args: argparse.Namespace) -> int:
    from bench.commands.score import score
    from bench.scoring.tpme import WEIGHTS

    rows = score(args.table, args.metric, args.weights or WEIGHTS, args.reference, _penalties(args))
    if args.json:
        print(as_json(rows))
        return 0
    names = [printable(row["method"]) for row in rows]
    width = max(6, *map(len, names))
    shown = [name for name in ("tpme", "pscp") if name in rows[0]]
    print("  ".join([f"{'method':{width}}", *(f"{name.upper():>7}" for name in shown)]))
    for method, row in zip(names, rows, strict=True):
        # TPME is a share of the comparison's range, PSCP has the unit of the performance it penalises.
        figures = {"tpme": f"{row.get('tpme', 0):7.2%}", "pscp": f"{row.get('pscp', 0):7.2f}"}
        print("  ".join([f"{method:{width}}", *(figures[name] for name in shown)]))
    return 0


def _list(args: argparse.Namespace) -> int:
    from bench.commands.list import catalogue_of_parts, tuners_of_peft
    from methods.loading import load_file

    for path in args.method_file:
        load_file(path)
    parts = tuners_of_peft() if args.peft else catalogue_of_parts()
    if args.json:
        print(as_json(parts))
        return 0
    for kind, entries in parts.items():
        print(f"{kind}:")
        width = max(14, *(len(entry["name"]) for entry in entries))
        for entry in entries:
            print(f"  {entry['name']:{width}} {entry['summary']}".rstrip())
    return 0


COMMANDS = {
    "run": _run,
    "tune": _tune,
    "report": _report,
    "score": _score,
    "compare": compare_command.run,
    "plan": plan.run,
    "data": data_command.run,
    "check": command.run,
    "doctor": doctor_command.run,
    "cache": cache_command.run,
    "list": _list,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # where it is not UTF-8, a method's name is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = build_parser()
    args = parser.parse_args(given if given else ["run"])
    if args.command is None:
        parser.error("no command given")
    try:
        return COMMANDS[args.command](args)
    except UserError as error:
        print(f"run_bench.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("run_bench.py: interrupted; what is finished is kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except OSError as error:  # a disk that is full, a folder that may not be written
        print(f"run_bench.py: {printable(error.filename or 'system')}: {error.strerror or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
