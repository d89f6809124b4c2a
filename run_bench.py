"""The command line.

python run_bench.py                       the default matrix on the built-in shop
python run_bench.py run --preset smoke    all eight methods in a minute
python run_bench.py COMMAND --help        options of a command, with an example
"""

from __future__ import annotations

import io
import shlex
import sys
from collections.abc import Sequence

from bench.commands import cache, compare, list, plan, report, run, score
from bench.commands.arguments import Parser
from bench.commands.check import command as check
from bench.commands.data import command as data
from bench.commands.doctor import command as doctor
from bench.commands.tune import command as tune
from bench.utils.errors import UserError
from bench.utils.text import printable

# Each module has HELP, add_arguments(parser) and run(arguments), and imports nothing heavy before it runs: --help and
# list must answer at once.
COMMANDS = {
    "run": run,
    "tune": tune,
    "report": report,
    "score": score,
    "compare": compare,
    "plan": plan,
    "data": data,
    "check": check,
    "doctor": doctor,
    "cache": cache,
    "list": list,
}


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(
        prog="run_bench.py",
        description="What fine-tuning a multimodal foundation model costs, and what it buys. "
        "Without a command the default matrix runs on the built-in shop.",
        epilog="example: python run_bench.py run --preset smoke --out runs/try",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status: 0 ok, 1 a cell or check that failed, 2 bad usage or input."""
    given = [*(sys.argv[1:] if arguments is None else arguments)]
    if isinstance(sys.stdout, io.TextIOWrapper):  # where it is not UTF-8, a method's name is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = build_parser()
    args = parser.parse_args(given or ["run"])
    if args.command is None:
        parser.error("no command given")
    args.command_line = shlex.join(["python", "run_bench.py", *given])
    try:
        return COMMANDS[args.command].run(args)
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
