"""The command line.

python run_bench.py                       the default matrix on the built-in shop
python run_bench.py run --preset smoke    all eight methods in a minute
python run_bench.py COMMAND --help        options of a command, with an example
"""

from __future__ import annotations

import importlib
import io
import shlex
import sys
from collections.abc import Sequence

from bench.commands.arguments import Parser
from bench.utils.errors import UserError
from bench.utils.text import printable

# Command -> module with add_arguments(parser) and run(arguments) -> exit status, and a line of help. A module is
# imported when its command is given, so that --help and list answer at once.
COMMANDS = {
    "run": ("bench.commands.run", "run a matrix"),
    "tune": ("bench.commands.tune.command", "find learning rates and sizes, as many trials for every method"),
    "report": ("bench.commands.report", "render again, from records alone; several runs are merged"),
    "score": ("bench.commands.score", "TPME (columns method, time, params, memory) or PSCP of any table"),
    "compare": ("bench.commands.compare", "two runs cell by cell, as ratios with intervals"),
    "plan": ("bench.commands.plan", "predicted memory per method, without a GPU and without weights"),
    "data": ("bench.commands.data.command", "check a dataset before a long run"),
    "check": ("bench.commands.check.command", "does a method keep the contract: yours by file, or any by name"),
    "doctor": ("bench.commands.doctor.command", "what on this machine would make the numbers wrong"),
    "cache": ("bench.commands.cache", "list, verify or clear hidden states and converted data on disk"),
    "list": ("bench.commands.list", "methods, presets, datasets, built-in backbones"),
}


def build_parser(chosen: str | None = None) -> Parser:
    """The parser of all commands.

    Args:
        chosen: the command whose options are needed; None for those of all commands.
    """
    parser = Parser(
        prog="run_bench.py",
        description="What fine-tuning a multimodal foundation model costs, and what it buys. "
        "Without a command the default matrix runs on the built-in shop.",
        epilog="example: python run_bench.py run --preset smoke --out runs/try",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if chosen in (None, name):
            importlib.import_module(module).add_arguments(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 ok, 1 a cell or check that failed, 2 bad usage or input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # where it is not UTF-8, a method's name is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    words = given or ["run"]
    parser = build_parser(words[0])
    args = parser.parse_args(words)
    if args.command is None:
        parser.error("no command given")
    args.command_line = shlex.join(["python", "run_bench.py", *given])
    try:
        status: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
        return status
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
