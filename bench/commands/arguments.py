"""Command-line options, each declared once: its flag, its key in the matrix, its help.

A command adds its options by name (:func:`add_options`); :func:`request_of` turns parsed arguments into a
:class:`bench.config.resolve.Request`, so that ``run``, ``plan``, ``tune`` and ``doctor`` read an option alike.
Imports nothing heavy, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from bench.data.kinds import KINDS
from bench.utils.text import printable

if TYPE_CHECKING:
    from bench.config.resolve import Request
    from bench.config.validation_messages import KeyPath

Number = TypeVar("Number")


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors are one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Prints the message on standard error and exits with status 2."""
        self.exit(2, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def names(text: str) -> list[str]:
    """Parses names separated by commas."""
    parts = [name.strip() for name in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"an empty name in {text!r}")
    return parts


def numbers(kind: Callable[[str], Number], expected: str) -> Callable[[str], tuple[Number, ...]]:
    """Parser of numbers separated by commas.

    Args:
        kind: ``int``, ``float`` or a function that parses one number.
        expected: description of valid input, for error messages.
    """

    def parse(text: str) -> tuple[Number, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}") from None

    return parse


def whole_number(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """Parser of a whole number within bounds; no upper bound if ``most`` is None."""
    bounds = f"a number of at least {least}" if most is None else f"a number from {least} to {most}"

    def parse(text: str) -> int:
        # int() would also take spaces, signs and underscores, and raises for thousands of digits.
        if not text.isdecimal() or len(text) > 18 or not least <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"expected {bounds}, got {text!r}")
        return int(text)

    return parse


def percent(text: str) -> float:
    """Parses a percentage from 0 to below 100, with or without its sign, into a share."""
    try:
        value = float(text.removesuffix("%")) / 100
    except ValueError:
        value = math.nan
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"expected a percentage from 0 to below 100, got {text!r}")
    return value


def positive(text: str) -> float:
    """Parses a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above zero, got {text!r}")
    return value


integers = numbers(int, "numbers separated by commas")
weights = numbers(float, "three numbers separated by commas")
SWITCH: Mapping[str, Any] = MappingProxyType({"action": "store_const", "const": True})


@dataclass(frozen=True)
class Option:
    """A command-line option.

    Attributes:
        name: attribute of the parsed arguments.
        flag: the option as the user types it.
        help: text that ``--help`` shows.
        path: key path of the value in the matrix; None if the option is not part of the matrix.
        settings: further arguments of ``ArgumentParser.add_argument``.
    """

    name: str
    flag: str
    help: str
    path: KeyPath | None
    settings: Mapping[str, Any]


def _option(name: str, help: str, path: KeyPath | None = None, flag: str = "", **settings: Any) -> Option:
    return Option(name, flag or "--" + name.replace("_", "-"), help, path, settings)


_PAIR = ("backbones", 0)
OPTIONS: Mapping[str, Option] = {
    option.name: option
    for option in (
        _option("preset", "name of a preset, see the command list (default: default, or amazon for data in files)",
                metavar="NAME"),
        _option("config", "matrix file (TOML) instead of a preset", type=Path, metavar="FILE"),
        _option("methods", "names of methods, separated by commas (default: all methods of the preset or matrix file)",
                type=names, metavar="A,B"),
        _option("method_file", "Python file with methods of your own; may be given several times",
                type=Path, action="append", metavar="MY.py"),
        _option("hidden_states",
                "for methods that read only hidden states: compute them in every step (live) or read them from the "
                "cache (default: as in the preset or matrix file)",
                choices=["live", "cached"]),
        _option("seeds", "random seeds, separated by commas; every method runs once per seed",
                ("seeds",), type=integers, metavar="0,1"),
        _option("modality", "item content that is encoded: text+image, text or image", ("modality",)),
        # Dataset
        _option("dataset", f"kind of dataset: {', '.join(KINDS)}; see the command list",
                ("dataset", "name"), metavar="KIND"),
        _option("shop_seed", "seed of the generated shop; another seed gives another shop",
                ("dataset", "seed"), type=int, metavar="N"),
        _option("data_dir", "folder of the dataset's files; given several times, one run per folder",
                ("dataset", "data_dir"), action="append", metavar="DIR"),
        _option("image_dir", "folder of the images, named <item>.jpg (default: images/ in the data folder)",
                ("dataset", "image_dir"), metavar="DIR"),
        _option("missing_images", "policy for items without an image: fail (default), drop-item or mean-image",
                ("dataset", "missing_images"), metavar="POLICY"),
        _option("bad_images", "policy for images that cannot be decoded: fail (default), drop-item or mean-image",
                ("dataset", "bad_images"), metavar="POLICY"),
        _option("user_column",
                "column of users in table, recbole and microlens files (default: user; recbole: user_id)",
                ("dataset", "columns", "user"), metavar="NAME"),
        _option("item_column",
                "column of items, the same in the files of items and of interactions (default: item; recbole: item_id)",
                ("dataset", "columns", "item"), metavar="NAME"),
        _option("title_column", "column of titles (default: title; recbole: the first of title, name and similar)",
                ("dataset", "columns", "title"), metavar="NAME"),
        _option("timestamp_column",
                "column of times (default: timestamp if there is one, otherwise the order of the rows)",
                ("dataset", "columns", "timestamp"), metavar="NAME"),
        _option("image_column",
                "column of image file names, relative to the image folder (default: image if there is one)",
                ("dataset", "columns", "image"), metavar="NAME"),
        _option("rating_column", "column of ratings, for --min-rating (default: rating)",
                ("dataset", "columns", "rating"), metavar="NAME"),
        _option("min_rating", "leave out interactions with a rating below X, or without one (default: keep all)",
                ("dataset", "min_rating"), type=float, metavar="X"),
        _option("split", "rule of the split: leave-one-out (default), or temporal with --valid-from and --test-from",
                ("dataset", "split"), metavar="RULE"),
        _option("valid_from", "start of the validation period in a temporal split: a number or a date",
                ("dataset", "valid_from"), metavar="T"),
        _option("test_from", "start of the test period in a temporal split: a number or a date",
                ("dataset", "test_from"), metavar="T"),
        # Encoders
        _option("text_model", "text encoder: built-in name, folder or hub id", (*_PAIR, "text"), metavar="ID|DIR"),
        _option("image_model", "image encoder: built-in name, folder or hub id", (*_PAIR, "image"), metavar="ID|DIR"),
        _option("weights", "weights of the encoders: pretrained, or random with only the configuration read",
                (*_PAIR, "weights")),
        _option("trust_remote_code", "run Python files that come with a model; the record and the report say so",
                (*_PAIR, "trust_remote_code"), **SWITCH),
        _option("quantise",
                "quantise the encoders' linear layers, for every method alike: bnb-nf4 (4 bit) or torchao-int8 (8 bit)",
                (*_PAIR, "quantise"), metavar="KIND"),
        # Budget and training
        _option("epochs", "training budget in epochs", ("budget", "epochs"), type=int, metavar="N"),
        _option("steps", "training budget in steps", ("budget", "steps"), type=int, metavar="N"),
        _option("seconds", "training budget in seconds; evaluation is not counted",
                ("budget", "seconds"), type=float, metavar="S"),
        _option("batch_size", "users per training step", ("budget", "batch_size"), type=int, metavar="N"),
        _option("device", "device that cells run on: auto, cpu, cuda or cuda:N", ("device",)),
        _option("precision", "precision of training: fp32, or bf16 or fp16 as autocast with 32-bit weights",
                ("precision",)),
        _option("gradient_checkpointing",
                "recompute the encoders' layers in the backward pass instead of keeping their activations",
                ("training", "gradient_checkpointing"), **SWITCH),
        _option("compile",
                "compile encoder layers, the method's network, user encoder and loss with torch.compile; needs a C++ "
                "compiler",
                ("training", "compile"), **SWITCH),
        _option("cudnn_attention",
                "let cuDNN compute attention on a GPU in 16 bit; it builds a plan for every new number of items",
                ("training", "cudnn_attention"), **SWITCH),
        # Files that cells write besides the record
        _option("profile", "trace N steps of every cell after its measurement", ("profile",), type=int, metavar="N"),
        _option("checkpoint_every",
                "write a checkpoint after every N-th epoch, from which a killed cell resumes (default: no checkpoints)",
                ("checkpoint_every",), type=int, metavar="N"),
        _option("save_adapters",
                "save trained weights in adapter/<modality>/, tuners of peft in peft's format; not with --launcher ray",
                ("save_adapters",), **SWITCH),
        # How cells are run
        _option("out", "run folder (default: runs/<name>)", type=Path, metavar="DIR"),
        _option("cache_dir", "cache folder (default: $IISAN_BENCH_CACHE, or ~/.cache/iisan-bench)",
                type=Path, metavar="DIR"),
        _option("cache_limit",
                "size limit of the cache folder, such as 20GiB; least recently used files are removed first",
                metavar="SIZE"),
        _option("fresh", "start a new run instead of resuming one; the run folder must be empty or absent",
                action="store_true"),
        _option("cell_timeout", "stop a cell after S seconds (default: no limit)", type=float, metavar="S"),
        _option("hang_timeout", "stop a cell after S seconds without progress (default: 1800)",
                type=float, default=1800, metavar="S"),
        _option("memory_limit", "stop a cell that takes more host memory than SIZE, such as 20GiB (default: no limit)",
                metavar="SIZE"),
        _option("launcher", "run cells on this machine (local, the default) or on a Ray cluster",
                choices=["local", "ray"], default="local"),
        _option("ray_address", "address of a running Ray cluster (default: auto)",
                default="auto", metavar="auto|HOST:PORT"),
        _option("parallel", "number of cells that run at a time, one per GPU or several on one CPU (default: 1)",
                type=whole_number(1, 999), default=1, metavar="N"),
        _option("retry_failed", "run cells again that did not end ok in an earlier run",
                action="store_true"),
        # What the report recommends by
        _option("within",
                "recommend the cheapest method whose accuracy is at most X percent below the highest (default: 5)",
                type=percent, default=0.05, metavar="X"),
        _option("price_per_hour",
                "price of an hour of the device, in any currency; the report then says what an epoch and the run cost",
                type=positive, metavar="P"),
        # Scores
        _option("tpme_weights", "weights of time, parameters and memory in TPME (default: 0.45,0.10,0.45)",
                flag="--weights", type=weights, metavar="T,P,M"),
        _option("reference", "CSV table whose minima and maxima normalise TPME", type=Path, metavar="TABLE.csv"),
        _option("pscp_constants",
                "constants of parameters, extra TFLOPs and memory (GB) in PSCP (default: 5e8,10,94)",
                type=weights, metavar="P,F,M"),
        _option("pscp_exponents", "exponents of parameters, extra TFLOPs and memory in PSCP (default: 1,1,1)",
                type=weights, metavar="P,F,M"),
        _option("json", "print one JSON value on standard output and nothing else", action="store_true"),
    )
}  # fmt: skip

DATASET = (
    "dataset", "shop_seed", "image_dir", "missing_images", "bad_images", "user_column", "item_column", "title_column",
    "timestamp_column", "image_column", "rating_column", "min_rating", "split", "valid_from", "test_from",
)  # fmt: skip
"""Options that choose a dataset and how it is read, except its folder."""

MATRIX = (
    "methods", "method_file", "seeds", "modality", "data_dir", *DATASET, "text_model", "image_model",
    "trust_remote_code", "hidden_states", "weights", "batch_size", "device", "precision", "quantise",
    "gradient_checkpointing", "compile", "cudnn_attention", "out", "cache_dir", "cache_limit", "fresh", "cell_timeout",
    "hang_timeout", "memory_limit",
)  # fmt: skip
"""Options of ``run`` and ``tune``, except the recipe and the budget."""


def add_options(parser: argparse._ActionsContainer, *chosen: str) -> None:
    """Adds options to a parser by name, in the given order."""
    for name in chosen:
        option = OPTIONS[name]
        parser.add_argument(option.flag, dest=option.name, help=option.help, **option.settings)


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Adds ``--preset`` and ``--config``, which exclude each other."""
    add_options(parser.add_mutually_exclusive_group(), "preset", "config")


def add_matrix(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``run`` and ``tune``: recipe, budget and :data:`MATRIX`."""
    add_recipe(parser)
    add_options(parser.add_mutually_exclusive_group(), "epochs", "steps", "seconds")
    add_options(parser, *MATRIX)


def given_values(args: argparse.Namespace, chosen: Sequence[str] = tuple(OPTIONS)) -> dict[KeyPath, tuple[Any, str]]:
    """Key path in the matrix -> value and flag, for each option that was given.

    Args:
        chosen: names of the options to look at.
    """
    given = {}
    for name in chosen:
        option, value = OPTIONS[name], getattr(args, name, None)
        if option.path is not None and value is not None:
            given[option.path] = (value, option.flag)
    return given


def request_of(args: argparse.Namespace, **changes: Any) -> Request:
    """The recipe that a command line names and the options that change it.

    Args:
        args: parsed arguments; options that the command does not have count as not given.
        changes: name of an option -> value that replaces the parsed one.
    """
    from bench.config.resolve import Request

    args = argparse.Namespace(**{**vars(args), **changes})
    given = given_values(args)
    return Request(
        preset=getattr(args, "preset", None),
        config=getattr(args, "config", None),
        methods=getattr(args, "methods", None),
        method_files=tuple(getattr(args, "method_file", None) or ()),
        hidden_states=getattr(args, "hidden_states", None),
        values={path: value for path, (value, _) in given.items()},
        flags={path: flag for path, (_, flag) in given.items()},
    )
