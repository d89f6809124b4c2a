"""The ``list`` command: names of methods, presets, datasets and built-in encoders. Imports nothing heavy."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

from bench.commands.arguments import add_options
from bench.config.matrix import PRESETS
from bench.data.kinds import KINDS
from bench.utils.text import as_json
from methods.loading import load_file
from methods.registry import known

BACKBONES = {
    "shop-full": "12 layers x 64; the last layer shows every attribute of the shop",
    "shop-buried": "12 layers x 64; middle layers show purpose (titles) and pattern (images), the last one does not",
    "shop-absent": "12 layers x 64; no layer shows purpose and pattern in the state that methods read",
    "shop-mixed": "12 layers x 64; the purpose absent (text of shop-absent), the pattern buried (image of shop-buried)",
    "bert-base": "text, configuration without weights (--weights random)",
    "vit-base": "image, 224 x 224, patch 16, configuration without weights (--weights random)",
    "clip-base": "text and image, 224 x 224, patch 32, configuration without weights (--weights random)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command and its example to its parser."""
    parser.description = "Lists methods, presets, kinds of datasets and built-in encoders, each with a summary."
    parser.epilog = "example: python run_bench.py list --json"
    add_options(parser, "method_file")
    parser.add_argument(
        "--peft",
        action="store_true",
        help="list the tuners of the installed peft, with the encoders that each was tried on",
    )
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Prints a line per method, preset, dataset and encoder, and returns exit status 0.

    Raises:
        UserError: a method file cannot be run.
    """
    for path in args.method_file or ():
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


def _first_comment(path: Path) -> str:
    """Summary of a preset: the first sentence of the comment at the top of its file."""
    tomllib.loads(path.read_text(encoding="utf-8"))
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def tuners_of_peft() -> dict[str, list[dict[str, str]]]:
    """Tuners of the installed peft, each with the encoders that it has run on, and why it does not run on others."""
    from methods.peft.tried_tuners import tuners

    return {
        "tuners": [
            {"name": t["name"], "summary": "; ".join(filter(None, (t["runs"], t["why_not"]))), **t} for t in tuners()
        ]
    }


def catalogue_of_parts() -> dict[str, list[dict[str, str]]]:
    """Methods, presets, datasets and built-in backbones, each with a summary in one line."""
    return {
        "methods": [{"name": name, "summary": entry.summary} for name, entry in known().items()],
        "presets": [{"name": path.stem, "summary": _first_comment(path)} for path in sorted(PRESETS.glob("*.toml"))],
        "datasets": [{"name": kind.name, "summary": kind.summary} for kind in KINDS.values()],
        "backbones": [{"name": name, "summary": summary} for name, summary in BACKBONES.items()],
    }
