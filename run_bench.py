"""The command line.

python run_bench.py                       runs the default matrix on the generated shop
python run_bench.py run --preset smoke    all eight methods in a minute
python run_bench.py COMMAND --help        shows the options of a command and an example
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
    "run": ("bench.commands.run", "run the cells of a matrix and write a report"),
    "tune": ("bench.commands.tune.command", "search learning rates and sizes, with equally many trials per method"),
    "report": ("bench.commands.report", "write the report again from records, or one report over several runs"),
    "score": ("bench.commands.score", "compute TPME or PSCP for the methods of a CSV table"),
    "compare": ("bench.commands.compare", "compare two runs cell by cell, as ratios with intervals"),
    "plan": ("bench.commands.plan", "predict the memory and FLOPs of each method, without a GPU and without weights"),
    "data": ("bench.commands.data.command", "check a dataset before a long run"),
    "check": ("bench.commands.check.command", "check that a method, from your file or by name, keeps the contract"),
    "doctor": ("bench.commands.doctor.command", "find conditions on this machine that make measurements wrong"),
    "cache": ("bench.commands.cache", "list, verify or clear hidden states and converted data on disk"),
    "list": ("bench.commands.list", "list methods, presets, datasets and built-in encoders"),
}


def build_parser(chosen: str | None = None) -> Parser:
    """The argument parser.

    Args:
        chosen: command whose options are added; None for the options of all commands.
    """
    parser = Parser(
        prog="run_bench.py",
        description="Measures the costs (time, memory, parameters) and the accuracy of methods that fine-tune a "
        "multimodal foundation model. Without a command, the default matrix runs on the generated shop.",
        epilog="example: python run_bench.py run --preset smoke --out runs/try",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if chosen in (None, name):
            importlib.import_module(module).add_arguments(command)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 ok, 1 a cell or check failed, 2 bad usage or input.

    Args:
        arguments: words of the command line after the program; None for the program's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # it may not be UTF-8, and names may hold any character
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
        print("run_bench.py: interrupted; finished cells are kept", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    except OSError as error:  # the disk is full, or a folder is not writable
        print(f"run_bench.py: {printable(error.filename or 'system')}: {error.strerror or error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
