"""Shows on a machine with a card that its figures are right: every line has a figure, a limit and a verdict.

    python -m tests.gpu.check --out DIR                 about 8 minutes on one card
    python -m tests.gpu.check --out DIR --dry           toys on a CPU; what needs a card is skipped by name

The cells have the scale of the paper, BERT-base and ViT-base/16 with random weights on the generated shop, in bf16, and
as many steps as fit the time. A line that cannot be had is a failed line and not the end of the check. Nothing is
needed from a network.

Exit status: 0 no line failed; 1 a line failed, or none was judged; 2 bad usage, or no card.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from bench.launch.local import resolve_device
from bench.utils.errors import UserError
from bench.utils.text import printable
from tests.gpu import output
from tests.gpu.checks import cached, cells, commands, memory, options
from tests.gpu.line import CheckError, Line, exit_status, failed
from tests.gpu.runs import METHODS, Runs

Check = tuple[str, Callable[[Runs], Iterable[Line]]]


def checks() -> list[Check]:
    """Every check with its name, in the order of the table."""
    per_method = [
        (f"{method}: {name}", partial(lines, method=method))
        for name, lines in cells.LINES.items()
        for method in METHODS
    ]
    return [
        ("tests marked gpu", commands.marked_tests),
        ("doctor", commands.doctor),
        ("fp16", options.fp16),
        ("cache built and found", cached.cache),
        *per_method,
        ("cuDNN's attention", options.cudnn),
        ("overhead of the meters", commands.meters),
        ("out of memory", memory.out_of_memory),
        ("kill and resume", cached.resumed),
    ]


def judge(check: Check, runs: Runs) -> list[Line]:
    """The lines of a check; one that raises gives a failed line after those that it gave before."""
    name, lines_of = check
    lines: list[Line] = []
    try:
        for line in lines_of(runs):
            lines.append(line)
            print(f"{line.status:8} {line.what}: {line.figure or line.reason}", file=sys.stderr, flush=True)
    except Exception as error:
        said = str(error) if isinstance(error, CheckError) else f"{type(error).__name__}: {error}"
        lines.append(failed(name, printable(said.partition("\n")[0])))
        print(f"failed   {name}: {lines[-1].reason}", file=sys.stderr, flush=True)
    return lines


def check(out: Path, minutes: float, dry: bool, chosen: Sequence[Check], scratch: Path) -> list[Line]:
    """Make all checks, write their files and give their lines.

    Args:
        out: folder of the files.
        minutes: time for all checks.
        chosen: the checks.
        scratch: folder for run folders and caches.
    """
    started = time.monotonic()
    runs = Runs(scratch, dry, 60 * minutes)
    # On a card one thing at a time; the toys of a dry check are not timed.
    with ThreadPoolExecutor(2 if dry else 1) as pool:
        lines = list(chain.from_iterable(pool.map(lambda check: judge(check, runs), chosen)))
    main = runs.folder / "cells"
    facts = {**described(main / "environment.json"), "seconds of the check": round(time.monotonic() - started)}
    title = "toys on a CPU" if dry else str(facts.pop("card", "a card"))
    output.write(out, title, lines, runs.folders(), main, facts)
    return lines


def described(environment: Path) -> dict[str, Any]:
    """Card and versions for the top of the report; empty if no cell ran."""
    if not environment.is_file():
        return {}
    found = json.loads(environment.read_text(encoding="utf-8"))
    card = found["gpu"] or {}
    facts = {name: found[name] for name in ("torch", "transformers", "python", "git_revision", "git_dirty")}
    return {"card": card.get("name"), "driver": card.get("driver"), "cuda": card.get("cuda"), **facts}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.check",
        description="Checks the figures of this suite on this machine's card, line by line, and writes a report.",
        epilog="example: python -m tests.gpu.check --out gpu-check",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report, new or empty")
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="time for all lines (default: 8)")
    parser.add_argument("--dry", action="store_true", help="toys on a CPU; lines that need a card are skipped")
    args = parser.parse_args(arguments)
    try:
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise UserError(f"--out {args.out}: not a new or empty folder")
        if not args.minutes > 0:
            raise UserError(f"--minutes {args.minutes:g}: must be above zero")
        if not args.dry:
            resolve_device("cuda")
    except UserError as error:
        print(f"check: {printable(error)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        lines = check(args.out, args.minutes, args.dry, checks(), Path(scratch))
    print(output.plain(lines))
    return exit_status(lines)


if __name__ == "__main__":
    sys.exit(main())
