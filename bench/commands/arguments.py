"""Command-line options, each declared once: its flag, its place in the matrix, its help.

A command adds the options that it takes by name (:func:`add_options`); :func:`request_of` turns what was given into a
:class:`bench.config.resolve.Request`, so that ``run``, ``plan``, ``tune`` and ``doctor`` read the same option alike.
Imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bench.utils.text import printable

if TYPE_CHECKING:
    from bench.config.resolve import Request
    from bench.config.validation_messages import KeyPath

Number = TypeVar("Number")


class Parser(argparse.ArgumentParser):
    """Parser whose errors are one line, without the usage text above it."""

    def error(self, message: str) -> NoReturn:
        """Prints the message and ends with exit status 2."""
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def names(text: str) -> list[str]:
    """Names separated by commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"an empty name in {text!r}")
    return found


def numbers(kind: Callable[[str], Number], expected: str) -> Callable[[str], tuple[Number, ...]]:
    """Parser of numbers separated by commas; ``expected`` says in an error what the option takes."""

    def parse(text: str) -> tuple[Number, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None

    return parse


def whole_number(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Parser of a whole number within bounds."""
    bounds = f"a number of at least {least}" if most is None else f"a number from {least} to {most}"

    def parse(text: str) -> int:
        # int() would also take spaces, signs and underscores, and raises for thousands of digits.
        if not text.isdecimal() or len(text) > 18 or not least <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"expected {bounds}, got {text!r}")
        return int(text)

    return parse


integers = numbers(int, "numbers separated by commas")
weights = numbers(float, "three numbers separated by commas")
SWITCH: Mapping[str, Any] = MappingProxyType({"action": "store_const", "const": True})


@dataclass(frozen=True)
class Option:
    """A command-line option.

    Attributes:
        name: attribute of the parsed arguments.
        flag: as it is typed.
        help: shown by ``--help``.
        place: key path in the matrix that the value goes to; None for an option that is no part of the matrix.
        settings: further arguments of ``ArgumentParser.add_argument``.
    """

    name: str
    flag: str
    help: str | None
    place: KeyPath | None
    settings: Mapping[str, Any]


def _option(
    name: str, help: str | None = None, place: KeyPath | None = None, flag: str = "", **settings: Any
) -> Option:
    return Option(name, flag or "--" + name.replace("_", "-"), help, place, settings)


_PAIR = ("backbones", 0)
OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        _option("preset", "a shipped recipe, see list (default: default; amazon for data in files)"),
        _option("config", "a matrix file (TOML)", type=Path, metavar="FILE"),
        _option("methods", "only these methods", type=names, metavar="A,B"),
        _option("method_file", "a file with methods of your own; repeatable",
                type=Path, action="append", metavar="MY.py"),
        _option("hidden_states", "how methods that read hidden states alone get them (default: as the recipe says)",
                choices=["live", "cached"]),
        _option("seeds", None, ("seeds",), type=integers, metavar="0,1"),
        _option("modality", "text+image, text or image", ("modality",)),
        # Dataset
        _option("dataset", "shop, amazon, table, recbole or microlens, see list", ("dataset", "name")),
        _option("shop_seed", "another generated shop", ("dataset", "seed"), type=int, metavar="N"),
        _option("data_dir", "folder of the dataset's files; repeat it for one run per folder", ("dataset", "data_dir"),
                action="append", metavar="DIR"),
        _option("image_dir", "folder with <item>.jpg (default: images/ in the data folder)", ("dataset", "image_dir"),
                metavar="DIR"),
        _option("missing_images", "items without an image: fail, drop-item or mean-image",
                ("dataset", "missing_images")),
        _option("bad_images", "images that cannot be decoded: fail, drop-item or mean-image",
                ("dataset", "bad_images")),
        _option("user_column",
                "column of users in table, recbole and microlens files (default: user; recbole: user_id)",
                ("dataset", "columns", "user"), metavar="NAME"),
        _option("item_column", "column of items in both files (default: item; recbole: item_id)",
                ("dataset", "columns", "item"), metavar="NAME"),
        _option("title_column", "column of titles (default: title; recbole: the first of title, name and similar)",
                ("dataset", "columns", "title"), metavar="NAME"),
        _option("timestamp_column",
                "column of times (default: timestamp if there is one, otherwise the order of the rows)",
                ("dataset", "columns", "timestamp"), metavar="NAME"),
        _option("image_column", "column of image file names, below the image folder (default: image if there is one)",
                ("dataset", "columns", "image"), metavar="NAME"),
        _option("split", "leave-one-out (default), or temporal with --valid-from and --test-from",
                ("dataset", "split")),
        _option("valid_from", "time from which interactions validate: a number or a date", ("dataset", "valid_from"),
                metavar="T"),
        _option("test_from", "time from which interactions test", ("dataset", "test_from"), metavar="T"),
        # Encoders
        _option("text_model", "text encoder: built-in name, folder or hub id", (*_PAIR, "text"), metavar="ID|DIR"),
        _option("image_model", "image encoder: built-in name, folder or hub id", (*_PAIR, "image"), metavar="ID|DIR"),
        _option("weights", "pretrained, or random: from the configuration alone", (*_PAIR, "weights")),
        _option("trust_remote_code", "let Python files that come with a model run; recorded, and the report says so",
                (*_PAIR, "trust_remote_code"), **SWITCH),
        _option("quantise",
                "bnb-nf4 or torchao-int8: linear layers of the encoders in 4 or 8 bit, for every method alike",
                (*_PAIR, "quantise"), metavar="KIND"),
        # Budget and training
        _option("epochs", None, ("budget", "epochs"), type=int, metavar="N"),
        _option("steps", None, ("budget", "steps"), type=int, metavar="N"),
        _option("seconds", "of training alone", ("budget", "seconds"), type=float, metavar="S"),
        _option("batch_size", "users per step", ("budget", "batch_size"), type=int, metavar="N"),
        _option("device", "auto, cpu, cuda or cuda:N", ("device",)),
        _option("precision", "fp32, bf16 or fp16 (autocast, 32-bit weights)", ("precision",)),
        _option("gradient_checkpointing",
                "recompute the encoders' layers in the backward pass instead of keeping their activations",
                ("training", "gradient_checkpointing"), **SWITCH),
        _option("compile",
                "torch.compile: encoder layers, the method's network, user encoder and loss; needs a C++ compiler",
                ("training", "compile"), **SWITCH),
        # What cells leave behind
        _option("profile", "trace N steps of every cell after its measurement", ("profile",), type=int, metavar="N"),
        _option("checkpoint_every",
                "write a checkpoint after every N-th epoch; a cell that was killed resumes from it (default: none)",
                ("checkpoint_every",), type=int, metavar="N"),
        _option("save_adapters",
                "write trained weights into adapter/<modality>/, peft's tuners in peft's own format (not with ray)",
                ("save_adapters",), **SWITCH),
        # How cells are run
        _option("out", "run folder (default: runs/<name>)", type=Path, metavar="DIR"),
        _option("cache_dir", "cache folder (default: $IISAN_BENCH_CACHE, or ~/.cache/iisan-bench)",
                type=Path, metavar="DIR"),
        _option("cache_limit", "such as 20GiB: least recently used files are removed first", metavar="SIZE"),
        _option("fresh", "start over, in an empty or absent folder only", action="store_true"),
        _option("cell_timeout", "stop a cell after S seconds", type=float, metavar="S"),
        _option("hang_timeout", "stop a cell after S seconds without progress (default: 1800)",
                type=float, default=1800,
                metavar="S"),
        _option("memory_limit", "host memory that a cell may use, such as 20GiB", metavar="SIZE"),
        _option("launcher", "this machine, or a Ray cluster (default: local)",
                choices=["local", "ray"], default="local"),
        _option("ray_address", "address of a running cluster (default: auto)",
                default="auto", metavar="auto|HOST:PORT"),
        _option("parallel", "cells at a time, one per GPU", type=whole_number(1, 999), default=1, metavar="N"),
        _option("retry_failed", "run cells again that ended oom, failed, ...", action="store_true"),
        # Scores
        _option("tpme_weights", "weights of time, parameters and memory in TPME (default: 0.45,0.10,0.45)",
                flag="--weights", type=weights, metavar="T,P,M"),
        _option("reference", "table that pins the minima and maxima of TPME", type=Path, metavar="TABLE.csv"),
        _option("pscp_constants", "parameters, extra TFLOPs, GB (default: 5e8,10,94)", type=weights, metavar="P,F,M"),
        _option("pscp_exponents", "default: 1,1,1", type=weights, metavar="P,F,M"),
        _option("json", "print one JSON value on standard output and nothing else", action="store_true"),
    )
}  # fmt: skip

DATASET = (
    "dataset", "shop_seed", "image_dir", "missing_images", "bad_images", "user_column", "item_column", "title_column",
    "timestamp_column", "image_column", "split", "valid_from", "test_from",
)  # fmt: skip
"""Options that say which dataset is read and how, the folder aside."""

MATRIX = (
    "methods", "method_file", "seeds", "modality", "data_dir", *DATASET, "text_model", "image_model",
    "trust_remote_code", "hidden_states", "weights", "batch_size", "device", "precision", "quantise",
    "gradient_checkpointing", "compile", "out", "cache_dir", "cache_limit", "fresh", "cell_timeout", "hang_timeout",
    "memory_limit",
)  # fmt: skip
"""Options that ``run`` and ``tune`` share."""


def add_options(parser: argparse._ActionsContainer, *chosen: str) -> None:
    """Adds declared options to a parser, in the order given."""
    for name in chosen:
        option = OPTIONS[name]
        parser.add_argument(option.flag, dest=option.name, help=option.help, **option.settings)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds ``--preset`` and ``--config``, of which at most one may be given."""
    add_options(parser.add_mutually_exclusive_group(), "preset", "config")


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """Adds the options that ``run`` and ``tune`` share."""
    add_recipe(parser)
    add_options(parser.add_mutually_exclusive_group(), "epochs", "steps", "seconds")
    add_options(parser, *MATRIX)


def given_places(args: argparse.Namespace, chosen: Sequence[str] = tuple(OPTIONS)) -> dict[KeyPath, tuple[Any, str]]:
    """Key path in the matrix -> value and flag, for each option that was given."""
    found = {}
    for name in chosen:
        option, value = OPTIONS[name], getattr(args, name, None)
        if option.place is not None and value is not None:
            found[option.place] = (value, option.flag)
    return found


def request_of(args: argparse.Namespace, **changes: Any) -> Request:
    """The recipe that a command line names and the options that go over it.

    Args:
        args: parsed arguments; options that the command does not take count as not given.
        changes: values that go over the arguments.
    """
    from bench.config.resolve import Request

    args = argparse.Namespace(**{**vars(args), **changes})
    places = given_places(args)
    return Request(
        preset=getattr(args, "preset", None),
        config=getattr(args, "config", None),
        methods=getattr(args, "methods", None),
        method_files=tuple(getattr(args, "method_file", None) or ()),
        hidden_states=getattr(args, "hidden_states", None),
        values={place: value for place, (value, _) in places.items()},
        flags={place: flag for place, (_, flag) in places.items()},
    )
