"""The ``list`` command: methods, presets, datasets and encoders that can be named. Imports nothing heavy."""

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
    "shop-partial": "12 layers x 64, pretrained; never taught purpose (titles) and pattern (pictures)",
    "shop-full": "12 layers x 64, pretrained on all attributes",
    "bert-base": "text, configuration only (--weights random)",
    "vit-base": "image, 224 x 224, patch 16, configuration only (--weights random)",
    "clip-base": "text and image, 224 x 224, patch 32, configuration only (--weights random)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options and its example."""
    parser.epilog = "example: python run_bench.py list --json"
    add_options(parser, "method_file")
    parser.add_argument("--peft", action="store_true", help="the tuners of the installed peft: which run here")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Prints a line per method, preset, dataset and encoder.

    Raises:
        UserError: anything wrong with a method file.
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
    """A preset says in its first comment what it is for."""
    tomllib.loads(path.read_text(encoding="utf-8"))
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def tuners_of_peft() -> dict[str, list[dict[str, str]]]:
    """The tuners of the installed peft, each with the encoders that it has run on here and why not on others."""
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
